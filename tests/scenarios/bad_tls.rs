//! bad_tls
