"""
Where policies and facts come from: one module per kind of source.

What the reconcile loop expects of them (`Source`, `FactsSource`) is declared in `xds.reconcile`, below this room.
"""
