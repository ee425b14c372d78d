"""The user's side: YAML kinds of both Istio generations, services.d, mesh settings; pure: no Consul, no Envoy.

Where to look:
    text to documents               yaml_text, document, envelope, spelling
    which kinds there are           kinds, known_kinds
    what a kind's spec may hold     one module each: route_rule, virtual_service, destination_rule, service_entry, …
    what these are declared with    schema (the mechanism), words, addresses, durations, fields, regex, scope, …
    verdicts                        problem, validate, enforce, json_schema, analysis/
    documents to mesh types         lower (the entry), lower_*, matching, catalog, istio_service
    between the generations         convert, convert_rule
    other files and settings        services, settings
"""
