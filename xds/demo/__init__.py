"""The main job, shown: a corporate network in namespaces, a real proxy, a real Envoy, one policy."""
