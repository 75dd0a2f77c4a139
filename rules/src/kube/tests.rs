//! Tests of the adapters for Kubernetes, over an API server in memory.
