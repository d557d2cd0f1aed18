//go:build tools

// Package control names the programs that the tests compare with. It holds no code of its own: its requirements are
// its content, and tests/harness/control.rs builds them.
package control

import (
	_ "go.etcd.io/etcd/etcdctl/v3"
	_ "go.etcd.io/etcd/etcdutl/v3"
	_ "go.etcd.io/etcd/server/v3"
)
