"""What translating the mesh costs an agent: from rule documents and services to Envoy's resources. No I/O."""
