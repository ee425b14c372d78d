"""The user's side: YAML kinds of both Istio generations, services.d, mesh settings; pure: no Consul, no Envoy.

Where to look:
    text to documents               yaml_text, document, envelope, spelling
    which kinds there are           kinds, known_kinds
    what a kind's spec may hold     specs/, one module each
    what these are declared with    checks/: schema (the mechanism), words, addresses, durations, fields, regex, …
    verdicts                        problem, validate, enforce, json_schema, analysis/
    documents to mesh types         lowering/: lower (the entry), one module for each thing lowered, catalog
    between the generations         conversion/
    other files and settings        services, settings
"""
