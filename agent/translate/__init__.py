"""Pure translation: mesh types → Envoy messages, iptables text, dnsmasq text. No I/O, no adapters."""
