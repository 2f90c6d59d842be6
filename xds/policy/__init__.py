"""
Policies: text becomes frozen values, or diagnostics that say where and how to mend it.

`model` is what policies mean, `parse` turns the text of a source into them, `selection` says whose is in
force for a pod, `schema` exports the shape of documents. Inside, from text to meaning::

    yaml_lines   text → a tree that knows keys and lines
    documents    the shapes of both forms · unavailable   keys of later versions
    structure    tree → shape, all structural mistakes at once
    hosts        names, addresses, ports · patterns   the grammar of NO_PROXY entries
    destinations · lints · proxies · selectors · actions · scopes · names
    long_form · short_form   shape → policy · long_lints   what a policy as a whole says in vain
    findings     where all of them put what they find

Nothing here does I/O, and nothing but `yaml_lines` and `documents`/`structure` knows a library.
"""
