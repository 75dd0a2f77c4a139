// Package storage is the external-storage suite of Kubernetes as a test program of its own: the specs that
// `-storage.testdriver` generates and what they need, without the rest of the end-to-end tests.
package storage

import (
	"flag"
	"fmt"
	"os"
	"testing"

	"k8s.io/kubernetes/test/e2e"
	"k8s.io/kubernetes/test/e2e/framework"
	"k8s.io/kubernetes/test/e2e/framework/config"
	"k8s.io/kubernetes/test/utils/image"

	// Registers the flag -storage.testdriver and the specs.
	_ "k8s.io/kubernetes/test/e2e/storage/external"

	// Adds what a failed spec reports, and waits for nodes.
	_ "k8s.io/kubernetes/test/e2e/framework/debug/init"
	_ "k8s.io/kubernetes/test/e2e/framework/node/init"
)

func TestMain(m *testing.M) {
	printImages := flag.Bool("print-images", false, "print the names of the images that the specs use, and end")
	config.CopyFlags(config.Flags, flag.CommandLine)
	framework.RegisterCommonFlags(flag.CommandLine)
	framework.RegisterClusterFlags(flag.CommandLine)
	flag.Parse()
	if *printImages {
		fmt.Println("busybox", image.GetE2EImage(image.BusyBox))
		fmt.Println("agnhost", image.GetE2EImage(image.Agnhost))
		fmt.Println("nginx", image.GetE2EImage(image.Nginx))
		return
	}
	framework.AfterReadingAllFlags(&framework.TestContext)
	os.Exit(m.Run())
}

func TestStorage(t *testing.T) {
	e2e.RunE2ETests(t)
}
