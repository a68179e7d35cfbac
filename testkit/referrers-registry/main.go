// A registry in memory with the referrers API of OCI 1.1, on loopback only.
package main

import (
	"flag"
	"fmt"
	"log"
	"net/http"

	"github.com/google/go-containerregistry/pkg/registry"
)

func main() {
	port := flag.Int("port", 0, "where to listen")
	flag.Parse()
	handler := registry.New(registry.WithReferrersSupport(true))
	log.Fatal(http.ListenAndServe(fmt.Sprintf("127.0.0.1:%d", *port), handler))
}
