"""Istio's egress gateway tasks as rules: plain, by the mesh's mutual TLS, with TLS passed on."""

from __future__ import annotations

ENTRY = """
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: outside}
spec:
  hosts: [outside.example]
  resolution: DNS
  ports:
  - {number: 80, name: http-port, protocol: HTTP}
  - {number: 443, name: tls, protocol: TLS}
---
"""
PLAIN = f"""{ENTRY}
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: istio-egressgateway}}
spec:
  selector: {{istio: egressgateway}}
  servers:
  - port: {{number: 80, name: http, protocol: HTTP}}
    hosts: [outside.example]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: egressgateway-for-outside}}
spec: {{host: istio-egressgateway.istio-system.svc.cluster.local, subsets: [{{name: outside}}]}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: direct-outside-through-egress-gateway}}
spec:
  hosts: [outside.example]
  gateways: [istio-egressgateway, mesh]
  http:
  - match: [{{gateways: [mesh], port: 80}}]
    route:
    - destination:
        host: istio-egressgateway.istio-system.svc.cluster.local
        subset: outside
        port: {{number: 80}}
      weight: 100
  - match: [{{gateways: [istio-egressgateway], port: 80}}]
    route: [{{destination: {{host: outside.example, port: {{number: 80}}}}, weight: 100}}]
"""
MUTUAL = PLAIN.replace(
    "port: {number: 80, name: http, protocol: HTTP}\n    hosts: [outside.example]",
    "port: {number: 80, name: https-port, protocol: HTTPS}\n    hosts: [outside.example]\n"
    "    tls: {mode: ISTIO_MUTUAL}",
).replace(
    "subsets: [{name: outside}]",
    "subsets: [{name: outside, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN},"
    " portLevelSettings: [{port: {number: 80}, tls: {mode: ISTIO_MUTUAL, sni: outside.example}}]}}]",
)
PASSED = f"""{ENTRY}
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: istio-egressgateway}}
spec:
  selector: {{istio: egressgateway}}
  servers:
  - port: {{number: 443, name: tls, protocol: TLS}}
    hosts: [outside.example]
    tls: {{mode: PASSTHROUGH}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: direct-outside-through-egress-gateway}}
spec:
  hosts: [outside.example]
  gateways: [mesh, istio-egressgateway]
  tls:
  - match: [{{gateways: [mesh], port: 443, sniHosts: [outside.example]}}]
    route:
    - destination: {{host: istio-egressgateway.istio-system.svc.cluster.local, port: {{number: 443}}}}
  - match: [{{gateways: [istio-egressgateway], port: 443, sniHosts: [outside.example]}}]
    route: [{{destination: {{host: outside.example, port: {{number: 443}}}}, weight: 100}}]
"""
