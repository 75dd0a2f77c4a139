//! Tests of rules inside the CSI call, over an API server and storage in memory.
