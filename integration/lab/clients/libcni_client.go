// A runtime that is nothing but libcni: one request as JSON on standard input, one call.
//
// It is built where Go and the sources of containernetworking/cni are (1.2 or newer); libcni itself
// needs no other module:
//
//	cd cni && go build -o /usr/local/bin/libcni-client .../integration/lab/clients/libcni_client.go
//
// HVTX_LIBCNI=/usr/local/bin/libcni-client lets integration/commands/test_libcni.py run it.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
)

type request struct {
	Verb, Plugins, Conflist, Cache string
	Container, NetNS, Interface    string
	Capabilities                   map[string]interface{}
	Valid                          []types.GCAttachment // null: all is to be collected
}

func ask(in request) (interface{}, error) {
	list, err := libcni.ConfListFromBytes([]byte(in.Conflist))
	if err != nil {
		return nil, err
	}
	cni := libcni.NewCNIConfigWithCacheDir([]string{in.Plugins}, in.Cache, nil)
	runtime := &libcni.RuntimeConf{
		ContainerID: in.Container, NetNS: in.NetNS, IfName: in.Interface,
		CapabilityArgs: in.Capabilities,
	}
	ctx := context.Background()
	switch in.Verb {
	case "ADD":
		return cni.AddNetworkList(ctx, list, runtime)
	case "CHECK":
		return nil, cni.CheckNetworkList(ctx, list, runtime)
	case "DEL":
		return nil, cni.DelNetworkList(ctx, list, runtime)
	case "GC":
		var arguments *libcni.GCArgs
		if in.Valid != nil {
			arguments = &libcni.GCArgs{ValidAttachments: in.Valid}
		}
		return nil, cni.GCNetworkList(ctx, list, arguments)
	case "STATUS":
		return nil, cni.GetStatusNetworkList(ctx, list)
	case "VERSION":
		found, err := cni.GetVersionInfo(ctx, list.Plugins[0].Network.Type)
		if err != nil {
			return nil, err
		}
		return found.SupportedVersions(), nil
	}
	return nil, fmt.Errorf("no verb %q", in.Verb)
}

func main() {
	var in request
	said, err := interface{}(nil), json.NewDecoder(os.Stdin).Decode(&in)
	if err == nil {
		said, err = ask(in)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	json.NewEncoder(os.Stdout).Encode(said)
}
