"""Rules about wildcards of the outside, for tests of both generations."""

WILD = """
apiVersion: config.istio.io/v1alpha2
kind: EgressRule
metadata: {name: wild}
spec:
  destination: {service: "*.wild.example"}
  ports: [{port: 80, protocol: http}, {port: 443, protocol: https}]
---
apiVersion: config.istio.io/v1alpha2
kind: RouteRule
metadata: {name: wild-timeout}
spec:
  destination: {service: "*.wild.example"}
  httpReqTimeout: {simpleTimeout: {timeout: 1s}}
"""
WILD_V1 = """
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: wild}
spec:
  hosts: ["*.wild.example"]
  resolution: NONE
  ports: [{number: 80, name: http, protocol: HTTP}, {number: 443, name: http-tls, protocol: HTTP}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: wild}
spec:
  host: "*.wild.example"
  trafficPolicy: {portLevelSettings: [{port: {number: 443}, tls: {mode: SIMPLE}}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: wild}
spec:
  hosts: ["*.wild.example"]
  http: [{timeout: 1s, route: [{destination: {host: "*.wild.example"}}]}]
"""
BY_NAME = """
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: wild}
spec:
  hosts: ["*.wild.example"]
  resolution: DYNAMIC_DNS
  ports: [{number: 80, name: http, protocol: HTTP}, {number: 443, name: http-tls, protocol: HTTP}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: wild}
spec:
  host: "*.wild.example"
  trafficPolicy: {portLevelSettings: [{port: {number: 443}, tls: {mode: SIMPLE}}]}
"""
BY_SERVER_NAME = """
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: wild}
spec:
  hosts: ["*.wild.example"]
  resolution: DYNAMIC_DNS
  ports:
  - {number: 443, name: tls, protocol: TLS}
  - {number: 8443, name: tls-more, protocol: TLS, targetPort: 443}
"""
WILD_TLS = """
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: wild-tls}
spec:
  hosts: ["*.wild.example"]
  ports: [{number: 443, name: tls, protocol: TLS}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: by-address}
spec:
  hosts: [greeter.example]
  addresses: [10.78.31.96/27]
  ports: [{number: 9080, name: tcp, protocol: TCP}]
"""
INSIDE_WILD = """
apiVersion: config.istio.io/v1alpha2
kind: RouteRule
metadata: {name: inside-redirect}
spec:
  destination: {service: a.wild.example}
  precedence: 2
  match: {request: {headers: {uri: {prefix: /old}}}}
  redirect: {uri: /new}
---
apiVersion: config.istio.io/v1alpha2
kind: RouteRule
metadata: {name: inside-timeout}
spec:
  destination: {service: a.wild.example}
  httpReqTimeout: {simpleTimeout: {timeout: 5s}}
"""
INSIDE_WILD_V1 = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: inside}
spec:
  hosts: [a.wild.example]
  http:
  - match: [{uri: {prefix: /old}}]
    redirect: {uri: /new}
  - timeout: 5s
    route: [{destination: {host: a.wild.example}}]
"""
