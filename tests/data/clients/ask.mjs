// Says of each line of standard input, `<no_proxy> US <url>`, where Node.js would connect to; the argument
// chooses between its `http` module and `fetch`. No connection leaves the process.

import http from 'node:http'
import net from 'node:net'
import readline from 'node:readline'

const PROXY = 'http://127.0.0.1:9'
let dialled = null

function dial (options) {
  dialled = options
  const socket = new net.Socket()
  process.nextTick(() => socket.destroy(new Error('not connected')))
  return socket
}
net.connect = dial
net.createConnection = dial

function get (noProxy, url) {
  return new Promise((resolve) => {
    const agent = new http.Agent({ proxyEnv: { http_proxy: PROXY, no_proxy: noProxy } })
    const request = http.get(url, { agent })
    request.on('error', resolve)
  })
}

async function fetchOne (noProxy, url) {
  process.env.no_proxy = noProxy
  await fetch(url).catch(() => {})
}

const ask = process.argv[2] === 'fetch' ? fetchOne : get
process.env.http_proxy = PROXY
for await (const line of readline.createInterface({ input: process.stdin })) {
  const [noProxy, url] = line.split('\u001f')
  dialled = null
  await ask(noProxy, url)
  console.log(dialled === null ? 'nothing' : `${dialled.host ?? dialled.hostname}:${dialled.port}` === '127.0.0.1:9' ? 'proxy' : 'direct')
}
