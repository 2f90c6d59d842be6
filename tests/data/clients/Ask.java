// Says of each line of standard input, `<nonProxyHosts> US <url>`, where Java would connect to.

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.net.Proxy;
import java.net.ProxySelector;
import java.net.URI;
import java.nio.charset.StandardCharsets;

public class Ask {
    public static void main(String[] arguments) throws Exception {
        for (String scheme : new String[] {"http", "https"}) {
            System.setProperty(scheme + ".proxyHost", "127.0.0.1");
            System.setProperty(scheme + ".proxyPort", "9");
        }
        BufferedReader input = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = input.readLine(); line != null; line = input.readLine()) {
            String[] parts = line.split("\u001f", -1);
            if (parts[0].isEmpty()) {
                System.clearProperty("http.nonProxyHosts");
            } else {
                System.setProperty("http.nonProxyHosts", parts[0]);
            }
            Proxy proxy = ProxySelector.getDefault().select(new URI(parts[1])).get(0);
            System.out.println(proxy == Proxy.NO_PROXY ? "direct" : "proxy");
        }
    }
}
