// CoreDNS with the plugins that the cluster's Corefile names. It is part of the module of Kubernetes, so that both share
// one client-go: compiled once.
package main

import (
	"github.com/coredns/coredns/coremain"

	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/kubernetes"
)

func main() {
	coremain.Run()
}
