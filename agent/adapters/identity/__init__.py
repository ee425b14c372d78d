"""Workload certificates: keys made on this host, the client of hostmesh-ca, and what is kept on the disk."""

from agent.adapters.identity.ca_client import CaClient, CertificateAuthority, IssuedChain
from agent.adapters.identity.failover import CaGroup
from agent.adapters.identity.keys import new_csr, new_key
from agent.adapters.identity.keystore import KeyStore, StoredCertificate
from agent.adapters.identity.tokens import FixedTokens, TokenFile, TokenSource, is_for_other_ca

__all__ = [
    "CaClient",
    "CaGroup",
    "CertificateAuthority",
    "FixedTokens",
    "IssuedChain",
    "KeyStore",
    "StoredCertificate",
    "TokenFile",
    "TokenSource",
    "is_for_other_ca",
    "new_csr",
    "new_key",
]
