//! etcdctl
