//! What the READMEs tell people to type works as it stands.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use harness::command::{self, Ran};
use harness::sidecar;
use tempfile::TempDir;
use tokio::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace").to_owned()
}

/// The blocks of a language in a Markdown text.
fn blocks<'t>(text: &'t str, language: &str) -> Vec<&'t str> {
    let fence = format!("```{language}\n");
    text.split(fence.as_str())
        .skip(1)
        .filter_map(|rest| rest.split_once("```").map(|(block, _)| block))
        .collect()
}

/// Every README that shows how to use the product: the first one, and those of the examples.
fn readmes() -> Vec<PathBuf> {
    let examples = fs::read_dir(root().join("deploy/examples")).expect("the examples");
    let examples = examples.map(|example| example.expect("an example").path().join("README.md"));
    [root().join("README.md")].into_iter().chain(examples.filter(|readme| readme.exists())).collect()
}

/// The commands in a README, in order, that run the product.
fn commands(readme: &Path) -> Vec<String> {
    let text = fs::read_to_string(readme).expect("a README");
    let lines = blocks(&text, "sh").into_iter().flat_map(str::lines).map(str::to_owned).collect::<Vec<_>>();
    lines
        .into_iter()
        .filter(|line| ["sideguard ", "python3 deploy/", "kill "].iter().any(|start| line.starts_with(start)))
        .collect()
}

/// A directory like the repository's root, with `sideguard` on the path and a user's own `agent.py`.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        for part in ["deploy", "policies"] {
            symlink(root().join(part), dir.path().join(part)).expect("a link");
        }
        fs::create_dir(dir.path().join("bin")).expect("a directory");
        symlink(sidecar::binary(), dir.path().join("bin/sideguard")).expect("a link");
        fs::write(dir.path().join("agent.py"), "print('my agent')\n").expect("a file");
        Self { dir }
    }

    async fn types(&self, line: &str) -> Ran {
        let environment = command::command(&self.dir.path().join("state"), &[]);
        let mut shell = Command::new("sh");
        for (name, value) in environment.as_std().get_envs() {
            match value {
                Some(value) => shell.env(name, value),
                None => shell.env_remove(name),
            };
        }
        let line = format!("PATH=\"$PWD/bin:$PATH\"; {line}");
        shell
            .args(["-c", &line])
            .current_dir(self.dir.path())
            .env_remove("OPENAI_BASE_URL")
            .env("SIDEGUARD", sidecar::binary())
            .kill_on_drop(true);
        command::ran(shell).await
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut down = std::process::Command::new(sidecar::binary());
        // Nothing is up where every command has worked.
        let _ = down.arg("down").arg("--state").arg(self.dir.path().join("state")).output();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_in_a_readme_works() {
    for readme in readmes() {
        let place = Place::new();
        let commands = commands(&readme);
        assert!(!commands.is_empty(), "{} shows no command", readme.display());
        for line in commands {
            let ran = place.types(&line).await;
            assert_eq!(ran.code, Some(0), "{}: `{line}`: {}{}", readme.display(), ran.out, ran.err);
            let elsewhere = line.contains(" > ") || line.starts_with("kill ");
            assert!(elsewhere || !ran.out.is_empty(), "`{line}` says something: {}", ran.err);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_command_shows_what_the_readme_says() {
    let readme = root().join("README.md");
    let line = commands(&readme).into_iter().next().expect("a command");
    let place = Place::new();
    let ran = place.types(&line).await;
    for part in [
        "deny  llm.tool_call drop_table [safety/block-destructive]: Destructive operations blocked by policy",
        "deny  tool.call DELETE 127.0.0.1:",
        "deny  llm.request gpt-4o-mini [budget/tour]: budget `tour` has no room",
        "sideguard: 14 calls, 3 denied, 10140 tokens, $0.002281; record: ",
    ] {
        assert!(ran.err.contains(part), "`{part}` is missing: {}", ran.err);
    }
    assert!(
        ran.out.contains("0 DELETE") && ran.out.contains("Tables left: customers, invoices."),
        "{}",
        ran.out
    );
    let denied = place.types("sideguard audit query --decision deny -o json").await;
    assert_eq!(denied.out.lines().count(), 3);
    // The contrast that the example speaks of: nothing holds the agent back when it runs alone.
    let alone = place.types("python3 deploy/examples/tour/run.py --alone").await;
    assert_eq!(alone.code, Some(0), "{}", alone.err);
    assert!(alone.out.contains("1 DELETE"), "{}", alone.out);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documents_in_the_readme_are_valid() {
    let text = fs::read_to_string(root().join("README.md")).expect("the README");
    let documents = blocks(&text, "yaml");
    let policy = documents.iter().find(|document| document.starts_with("version: v1")).expect("a policy");
    assert_eq!(*policy, fs::read_to_string(root().join("policies/bundles/safety.yaml")).expect("the seed"));
    let control =
        documents.iter().find(|document| document.contains("kind: Control")).expect("a configuration");
    let place = Place::new();
    fs::write(place.dir.path().join("control.yaml"), control).expect("a file");
    // It is taken: what is missing are the files and servers that it names.
    let ran = place.types("sideguard control -c control.yaml").await;
    assert_eq!(ran.code, Some(64), "{}", ran.err);
    assert!(ran.err.contains("control.key"), "{}", ran.err);
    let proxy = documents.iter().find(|document| document.contains("kind: Proxy")).expect("a configuration");
    let place = Place::new();
    fs::write(place.dir.path().join("proxy.yaml"), proxy).expect("a file");
    // Its port is another's on purpose: what is checked is that the configuration is taken before any port opens.
    let line = "OPENAI_API_KEY=x SIDEGUARD_LISTEN__OUTBOUND=192.0.2.1:1 sideguard proxy -c proxy.yaml";
    let ran = place.types(line).await;
    assert_eq!(ran.code, Some(125), "{}", ran.err);
    assert!(ran.err.contains("cannot listen on `192.0.2.1:1`"), "{}", ran.err);
}
