// Says of each line of standard input, `<NO_PROXY> US <url>`, where Go would connect to.
//
// net/http reads the environment once in a process, so there is one process for each value.
package main

import (
	"bufio"
	"bytes"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
)

func answer(address string) {
	request, err := http.NewRequest("GET", address, nil)
	if err != nil {
		fmt.Println("error:", err)
		return
	}
	proxy, err := http.ProxyFromEnvironment(request)
	switch {
	case err != nil:
		fmt.Println("error:", err)
	case proxy == nil:
		fmt.Println("direct")
	default:
		fmt.Println("proxy")
	}
}

func ask(value string, addresses []string) {
	command := exec.Command(os.Args[0], "answer")
	command.Env = []string{"HTTP_PROXY=http://127.0.0.1:9", "HTTPS_PROXY=http://127.0.0.1:9", "NO_PROXY=" + value}
	command.Stdin = bytes.NewBufferString(strings.Join(addresses, "\n"))
	command.Stdout = os.Stdout
	command.Stderr = os.Stderr
	if err := command.Run(); err != nil {
		panic(err)
	}
}

func main() {
	lines := bufio.NewScanner(os.Stdin)
	value, addresses := "", []string{}
	for lines.Scan() {
		if len(os.Args) > 1 {
			answer(lines.Text())
			continue
		}
		parts := strings.Split(lines.Text(), "\x1f")
		if parts[0] != value && len(addresses) > 0 {
			ask(value, addresses)
			addresses = nil
		}
		value = parts[0]
		addresses = append(addresses, parts[1])
	}
	if len(addresses) > 0 {
		ask(value, addresses)
	}
}
