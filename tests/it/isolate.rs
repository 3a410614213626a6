//! `sideguard run --isolate netns`: any program, unchanged, is governed, whatever it knows of proxies.

use std::path::Path;
use std::process;

use harness::command::{self, Ran};
use harness::fake::{self, Fake, Seen};
use harness::model;
use harness::sidecar::ALLOW;
use harness::tls::Authority;
use tempfile::TempDir;

/// What a program does under `sideguard run`, with `crm.example` and `api.openai.com` at local TLS servers.
struct Place {
    dir: TempDir,
    authority: Authority,
    web: Fake,
    model: Fake,
}

impl Place {
    async fn new() -> Self {
        Self::serving(|_| fake::reply("text/plain", fake::whole("there\n"))).await
    }

    async fn serving(web: impl Fn(&Seen) -> http::Response<fake::Body> + Send + Sync + 'static) -> Self {
        let authority = Authority::new();
        let tls = |name| Some(authority.server(&[name], &["h2", "http/1.1"]));
        let web = Fake::start(tls("crm.example"), web).await;
        let model = Fake::start(tls("api.openai.com"), |_| model::json(model::completion("ok", 3, 1))).await;
        Self { dir: tempfile::tempdir().expect("a directory"), authority, web, model }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    fn write(&self, name: &str, text: &str) -> String {
        std::fs::write(self.dir.path().join(name), text).expect("a file");
        self.path(name)
    }

    async fn run(&self, words: &[&str]) -> Ran {
        let allow = self.write("allow.yaml", ALLOW);
        let hosts = [
            format!("crm.example=127.0.0.1:{}", self.web.address().port()),
            format!("api.openai.com=127.0.0.1:{}", self.model.address().port()),
        ];
        let state = self.path("state");
        let own = [
            "run",
            "--isolate",
            "netns",
            "--state",
            &state,
            "-f",
            &allow,
            "--resolve",
            &hosts[0],
            "--resolve",
            &hosts[1],
            "--",
        ];
        let mut command = command::command(Path::new(&state), &[&own[..], words].concat());
        // The sidecar's own roots; what the command finds is another bundle.
        command.env("SSL_CERT_FILE", self.authority.path()).env_remove("SSL_CERT_DIR");
        command::ran(command).await
    }

    /// Runs a program that has to say `there`, having been governed.
    async fn says_there(&self, words: &[&str]) {
        let before = self.web.seen().len();
        let ran = self.run(words).await;
        assert_eq!((ran.code, ran.out.trim()), (Some(0), "there"), "{words:?}: {}", ran.err);
        assert!(self.web.seen().len() > before);
        assert!(ran.err.contains(" calls, 0 denied"), "{}", ran.err);
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace")
}

fn build(program: &str, arguments: &[&str], dir: &Path) {
    let output = process::Command::new(program)
        .args(arguments)
        .current_dir(dir)
        .env("GOFLAGS", "-mod=mod")
        .env("GOCACHE", dir.join("cache"))
        .env("CGO_ENABLED", "0")
        .env("GO111MODULE", "off")
        .output()
        .unwrap_or_else(|error| panic!("`{program}`: {error} (tests/setup installs it)"));
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_and_its_grandchildren() {
    let place = Place::new().await;
    place.says_there(&["curl", "-sS", "https://crm.example/"]).await;
    place.says_there(&["curl", "-sS", "--http1.1", "--noproxy", "*", "https://crm.example/"]).await;
    place.says_there(&["env", "-i", "/usr/bin/curl", "-sS", "https://crm.example/"]).await;
    place.says_there(&["sh", "-c", "(sh -c 'curl -sS https://crm.example/ & wait')"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn python_requests_and_the_openai_sdk() {
    let place = Place::new().await;
    let python = root().join("target/clients/python/bin/python").display().to_string();
    place
        .says_there(&[&python, "-c", "import requests; print(requests.get('https://crm.example/').text)"])
        .await;
    place
        .says_there(&[
            &python,
            "-c",
            "import urllib.request as u; print(u.urlopen('https://crm.example/').read().decode())",
        ])
        .await;
    let sdk = "import openai\nclient = openai.OpenAI(api_key='none')\n\
        said = client.chat.completions.create(model='gpt-5', messages=[{'role': 'user', 'content': 'hi'}])\n\
        print(said.choices[0].message.content)";
    let ran = place.run(&[&python, "-c", sdk]).await;
    assert_eq!((ran.code, ran.out.trim()), (Some(0), "ok"), "{}", ran.err);
    assert!(ran.err.contains("1 calls, 0 denied, 4 tokens"), "{}", ran.err);
    assert_eq!(place.model.seen()[0].host, "api.openai.com");
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_fetch() {
    let place = Place::new().await;
    place
        .says_there(&[
            "node",
            "-e",
            "fetch('https://crm.example/').then(r => r.text()).then(t => console.log(t))",
        ])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_static_go_program() {
    let place = Place::new().await;
    place.write(
        "main.go",
        "package main\nimport (\"fmt\"; \"io\"; \"net/http\"; \"os\")\nfunc main() {\n\
         answer, err := http.Get(\"https://crm.example/\")\nif err != nil { fmt.Println(err); os.Exit(1) }\n\
         text, _ := io.ReadAll(answer.Body)\nfmt.Print(string(text))\n}\n",
    );
    build("go", &["build", "-o", "client", "main.go"], place.dir.path());
    let client = place.path("client");
    place.says_there(&[&client]).await;
    // Without any variable, the system's own bundle serves.
    place.says_there(&["env", "-i", &client]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn javas_http_client() {
    let place = Place::new().await;
    let source = place.write(
        "Client.java",
        "import java.net.URI; import java.net.http.*;\npublic class Client { public static void main(String[] a) throws \
         Exception {\nvar ask = HttpRequest.newBuilder(URI.create(\"https://crm.example/\")).build();\n\
         System.out.print(HttpClient.newHttpClient().send(ask, HttpResponse.BodyHandlers.ofString()).body());\n} }\n",
    );
    place.says_there(&["java", &source]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn git_clones_over_https() {
    let source = tempfile::tempdir().expect("a directory");
    let at = source.path().join("bare.git");
    let script = "set -e; git init -q -b main work; cd work; echo there > file; git add file; \
        git -c user.name=t -c user.email=t@example commit -qm one; cd ..; git clone -q --bare work bare.git; \
        cd bare.git; git update-server-info";
    build("sh", &["-c", script], source.path());
    let place = Place::serving(move |seen| {
        let path = seen.target.split('?').next().unwrap_or_default().trim_start_matches("/bare.git/");
        match std::fs::read(at.join(path)) {
            Ok(bytes) => fake::reply("application/octet-stream", fake::whole(bytes)),
            Err(_) => {
                let mut missing = fake::reply("text/plain", fake::whole(""));
                *missing.status_mut() = http::StatusCode::NOT_FOUND;
                missing
            }
        }
    })
    .await;
    let copy = place.path("copy");
    place
        .says_there(&[
            "sh",
            "-c",
            &format!("git clone -q https://crm.example/bare.git {copy} && cat {copy}/file"),
        ])
        .await;
}

/// Runs a command on a terminal of its own; types `typed` once it has said `word`. Prints what it says, and its status.
const TERMINAL: &str = "import os, pty, sys\nword, typed, command = sys.argv[1], sys.argv[2], sys.argv[3:]\n\
    pid, fd = pty.fork()\nif pid == 0: os.execvp(command[0], command)\nheard = b''\n\
    while True:\n try: part = os.read(fd, 4096)\n except OSError: break\n if not part: break\n heard += part\n \
    if word.encode() in heard and typed: os.write(fd, typed.encode().decode('unicode_escape').encode()); typed = ''\n\
    print(heard.decode(), 'status', os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))";

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_is_the_commands_own() {
    let place = Place::new().await;
    let (state, allow) = (place.path("state"), place.write("allow.yaml", ALLOW));
    let binary = harness::sidecar::binary().display().to_string();
    let interrupt = "trap 'echo stopped; exit 9' INT; echo ready; while :; do sleep 0.1; done";
    for (script, typed, said, status) in [
        ("tty -s && echo ready && read word && echo got $word", "hello\\n", "got hello", "status 0"),
        (interrupt, "\\x03", "stopped", "status 9"),
    ] {
        let run = ["run", "--isolate", "netns", "--state", &state, "-f", &allow, "--", "sh", "-c", script];
        let mut command = tokio::process::Command::new("python3");
        command.args(["-c", TERMINAL, "ready", typed, &binary]).args(run).kill_on_drop(true);
        let ran = command::ran(command).await;
        assert!(ran.out.contains(said) && ran.out.contains(status), "{}{}", ran.out, ran.err);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_of_this_host_is_reached_through_the_sidecar_when_it_is_named() {
    let place = Place::new().await;
    let local = Fake::json("local").await;
    let (state, allow) = (place.path("state"), place.write("allow.yaml", ALLOW));
    let port = local.address().port().to_string();
    let url = format!("http://127.0.0.1:{port}/x");
    for (flags, expected) in [(&["--local", port.as_str()][..], Some(0)), (&[], Some(7))] {
        let own = [
            &["run", "--isolate", "netns", "--state", &state, "-f", &allow],
            flags,
            &["--", "curl", "-sS", &url],
        ];
        let ran = command::sideguard(Path::new(&state), &own.concat()).await;
        assert_eq!(ran.code, expected, "{}", ran.err);
        assert_eq!(ran.out == "local", expected == Some(0), "{}", ran.out);
    }
    assert_eq!(local.seen().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_cannot_change_the_policy_it_runs_under() {
    let place = Place::new().await;
    let deny = place.write("deny.yaml", &ALLOW.replace("default_decision: allow", "default_decision: deny"));
    let (state, allow) = (place.path("state"), place.write("other.yaml", ALLOW));
    let script = format!("cp {allow} {deny}; sleep 1.2; curl -sS https://crm.example/; echo status $?");
    let own = ["run", "--isolate", "netns", "--state", &state, "-f", &deny, "--", "sh", "-c", &script];
    let ran = command::sideguard(Path::new(&state), &own).await;
    // The name does not exist for it, before as after.
    assert_eq!((ran.code, ran.out.trim()), (Some(0), "status 6"), "{}", ran.err);
    assert!(place.web.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_path_and_no_descriptor_leads_to_the_sidecars_state_or_out() {
    let place = Place::new().await;
    let allow = place.write("allow.yaml", ALLOW);
    let base = place.path("base");
    std::fs::create_dir_all(format!("{base}/runs")).expect("a directory");
    std::fs::create_dir(place.path("elsewhere")).expect("a directory");
    std::os::unix::fs::symlink(place.path("elsewhere"), format!("{base}/link")).expect("a link");
    let outside = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = outside.local_addr().expect("an address").port();
    let binary = harness::sidecar::binary().display().to_string();
    let run = format!("{binary} run --isolate netns -f {allow}");
    for (before, flags, inside) in [
        ("cd $SIDEGUARD_STATE", "", "cat ca/ca.key runs/*/ca/ca.key runs/*/record.key"),
        ("exec 9<$SIDEGUARD_STATE", "", "cat /dev/fd/9/runs/*/ca/ca.key"),
        ("true", "--state $SIDEGUARD_STATE/../other", "cat $SIDEGUARD_STATE/../other/ca/ca.key"),
        ("true", "--state $SIDEGUARD_STATE/link/s", "cat $SIDEGUARD_STATE/../elsewhere/s/ca/ca.key"),
        ("true", "", "cat $SIDEGUARD_STATE/runs/*/ca/ca.key $SIDEGUARD_STATE/runs/*/admin.token"),
    ] {
        let mut command = tokio::process::Command::new("sh");
        command
            .args(["-c", &format!("{before}; exec {run} {flags} -- sh -c '{inside} && echo READ'")])
            .env("SIDEGUARD_STATE", &base)
            .kill_on_drop(true);
        let ran = command::ran(command).await;
        assert!(
            !ran.out.contains("PRIVATE KEY") && !ran.out.contains("READ"),
            "{before} {flags}: {}",
            ran.out
        );
        assert_ne!(ran.code, Some(0), "{before} {flags}: {}", ran.err);
    }
    let mut command = tokio::process::Command::new("bash");
    let script = format!("exec 7<>/dev/tcp/127.0.0.1/{port}; exec {run} -- sh -c 'echo secret >&7'");
    command.args(["-c", &script]).env("SIDEGUARD_STATE", &base).kill_on_drop(true);
    let ran = command::ran(command).await;
    assert_ne!(ran.code, Some(0), "{}", ran.err);
    let (mut heard, _) = outside.accept().expect("the connection that the shell made");
    let mut text = String::new();
    std::io::Read::read_to_string(&mut heard, &mut text).expect("an end");
    assert_eq!(text, "");
    // What the shell opens for a command to read is still there.
    let mut command = tokio::process::Command::new("bash");
    command
        .args(["-c", &format!("exec {run} -- cat <(echo piped)")])
        .env("SIDEGUARD_STATE", &base)
        .kill_on_drop(true);
    assert_eq!(command::ran(command).await.out.trim(), "piped");
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_below_run_are_out_of_reach_whenever_they_come() {
    let place = Place::new().await;
    let path = format!("/run/sideguard-test-{}.sock", std::process::id());
    let _socket = std::os::unix::net::UnixListener::bind(&path).expect("a socket");
    let ran = place
        .run(&["sh", "-c", &format!("test -e {path} && echo there; ls /run; echo $SSL_CERT_FILE")])
        .await;
    std::fs::remove_file(&path).expect("the socket");
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(!ran.out.contains("there") && !ran.out.contains(".sock"), "{}", ran.out);
    assert!(ran.out.contains("/run/sideguard/bundle.pem"), "{}", ran.out);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_this_host_stay_here() {
    let place = Place::new().await;
    let ask = "import socket; print({a[4][0] for n in ('app.localhost', socket.gethostname()) for a in \
        socket.getaddrinfo(n, 80)} <= {'127.0.0.1', '::1', '127.0.1.1'})";
    assert_eq!(place.run(&["/usr/bin/python3", "-c", ask]).await.out.trim(), "True");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_isolation_it_says_so_in_a_line_and_goes_on() {
    let state = tempfile::tempdir().expect("a directory");
    // A kernel that lets nobody have namespaces: here by a limit for this user namespace alone.
    let own = format!(
        "echo 0 > /proc/sys/user/max_net_namespaces; exec {} run -- sh -c 'echo $HTTPS_PROXY'",
        harness::sidecar::binary().display()
    );
    let mut command = tokio::process::Command::new("unshare");
    command.args(["-Ur", "sh", "-c", &own]).env("SIDEGUARD_STATE", state.path()).kill_on_drop(true);
    let ran = command::ran(command).await;
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(ran.out.starts_with("http://127.0.0.1:"), "{}{}", ran.out, ran.err);
    let line = ran.err.lines().next().unwrap_or_default();
    assert!(line.starts_with("sideguard: not isolated: ") && line.contains("can go past"), "{}", ran.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_tells_what_works() {
    let state = tempfile::tempdir().expect("a directory");
    let ran = command::sideguard(state.path(), &["doctor", "-o", "json"]).await;
    let found: serde_json::Value = serde_json::from_str(&ran.out).expect("JSON");
    let checks: Vec<&str> =
        found.as_array().expect("a list").iter().filter_map(|one| one["check"].as_str()).collect();
    assert_eq!(checks, ["isolation", "capture", "state", "roots", "outbound port", "admin port", "clock"]);
    assert!(found[0]["found"].as_str().is_some_and(|text| text.starts_with("netns")), "{}", ran.out);
    let mut command = command::command(Path::new("/proc/none"), &["doctor"]);
    command.env("NO_COLOR", "1");
    let ran = command::ran(command).await;
    assert_eq!(ran.code, Some(1), "{}", ran.out);
    assert!(ran.out.contains("failed  state") && ran.out.contains("SIDEGUARD_STATE"), "{}", ran.out);
}
