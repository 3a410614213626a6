//! A headless Chromium, driven over its debugging pipe.

use std::collections::VecDeque;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sideguard_runtime::clock::Stopwatch;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// Longest wait for an answer of the browser, and for what a test waits for.
const PATIENCE: Duration = Duration::from_secs(30);
/// The pipes that Chromium speaks over are its descriptors 3 and 4.
const PIPES: &str = "exec 3<&0 4>&1 </dev/null >/dev/null 2>/dev/null; exec chromium \"$@\"";

/// A browser with one page. Ends when dropped.
pub struct Browser {
    _child: Child,
    _profile: TempDir,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    session: Option<String>,
    number: u64,
    events: VecDeque<Value>,
}

impl Browser {
    /// Starts one. `dark` is what it says the user prefers.
    ///
    /// # Panics
    /// When there is no Chromium: `tests/setup` installs it.
    pub async fn start(dark: bool) -> Self {
        let profile = tempfile::tempdir().expect("a directory");
        let mut child = Command::new("sh")
            .args([
                "-c",
                PIPES,
                "sh",
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
            ])
            .args(["--no-first-run", "--remote-debugging-pipe", "--window-size=1440,900"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("a shell");
        let input = child.stdin.take().expect("a pipe");
        let output = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut browser = Self {
            _child: child,
            _profile: profile,
            input,
            output,
            session: None,
            number: 0,
            events: VecDeque::new(),
        };
        let target = browser.call("Target.createTarget", json!({ "url": "about:blank" })).await;
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let session = browser.call("Target.attachToTarget", attach).await;
        browser.session = session["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page.enable", "Runtime.enable", "Log.enable"] {
            browser.call(domain, json!({})).await;
        }
        // Without a screen no window has the keyboard.
        browser.call("Emulation.setFocusEmulationEnabled", json!({ "enabled": true })).await;
        let scheme =
            json!([{ "name": "prefers-color-scheme", "value": if dark { "dark" } else { "light" } }]);
        browser.call("Emulation.setEmulatedMedia", json!({ "features": scheme })).await;
        browser
    }

    /// Calls a method of the debugging protocol.
    async fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.number += 1;
        let mut ask = json!({ "id": self.number, "method": method, "params": parameters });
        if let Some(session) = &self.session {
            ask["sessionId"] = session.as_str().into();
        }
        self.input
            .write_all(format!("{ask}\0").as_bytes())
            .await
            .expect("chromium: `tests/setup` installs it");
        loop {
            let mut bytes = Vec::new();
            let read = tokio::time::timeout(PATIENCE, self.output.read_until(0, &mut bytes)).await;
            assert!(read.expect("an answer in time").expect("a pipe") > 0, "chromium has ended: {method}");
            bytes.pop();
            let told: Value = serde_json::from_slice(&bytes).expect("JSON");
            if told["id"] == self.number {
                assert!(told["error"].is_null(), "{method}: {}", told["error"]);
                return told["result"].clone();
            }
            self.events.push_back(told);
        }
    }

    /// Runs a script before those of every page that is opened from now on.
    pub async fn before(&mut self, script: &str) {
        self.call("Page.addScriptToEvaluateOnNewDocument", json!({ "source": script })).await;
    }

    /// Opens a page, and waits until it takes keys: a browser drops what is typed before it has painted the page.
    pub async fn open(&mut self, url: &str) {
        self.call("Page.navigate", json!({ "url": url })).await;
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'").await;
        self.value("window.heard = 0; addEventListener('keyup', () => { window.heard += 1; })").await;
        while self.value("window.heard").await == 0 {
            self.call("Input.dispatchKeyEvent", json!({ "type": "keyUp", "key": "Shift" })).await;
        }
    }

    /// The value of an expression in the page.
    ///
    /// # Panics
    /// When it throws.
    pub async fn value(&mut self, expression: &str) -> Value {
        let ask = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let told = self.call("Runtime.evaluate", ask).await;
        assert!(told["exceptionDetails"].is_null(), "{expression}: {}", told["exceptionDetails"]);
        told["result"]["value"].clone()
    }

    /// What the page says, as text.
    pub async fn text(&mut self) -> String {
        self.value("document.body.innerText").await.as_str().unwrap_or_default().to_owned()
    }

    /// Waits until an expression is true in the page.
    ///
    /// # Panics
    /// When it is not in time.
    pub async fn until(&mut self, expression: &str) {
        let since = Stopwatch::start();
        // The page may be on its way: what throws is not true yet.
        let tried =
            format!("(() => {{ try {{ return Boolean({expression}) }} catch {{ return false }} }})()");
        while self.value(&tried).await != Value::Bool(true) {
            assert!(
                since.elapsed() < PATIENCE,
                "never {expression}: {}\n{:?}",
                self.text().await,
                self.problems()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until the page shows a text.
    ///
    /// # Panics
    /// When it does not in time.
    pub async fn shows(&mut self, text: &str) {
        self.until(&format!("document.body.innerText.includes({})", Value::from(text))).await;
    }

    /// Presses a key.
    pub async fn key(&mut self, key: &str) {
        let (text, code) = match key {
            "Enter" => ("\r", 13),
            "Escape" => ("", 27),
            key => (key, 0),
        };
        let down = json!({ "type": "keyDown", "key": key, "text": text, "windowsVirtualKeyCode": code });
        self.call("Input.dispatchKeyEvent", down).await;
        self.call(
            "Input.dispatchKeyEvent",
            json!({ "type": "keyUp", "key": key, "windowsVirtualKeyCode": code }),
        )
        .await;
    }

    /// Writes a text where the cursor is.
    pub async fn write(&mut self, text: &str) {
        self.call("Input.insertText", json!({ "text": text })).await;
    }

    /// Takes a picture of the page, as PNG.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub async fn picture(&mut self, file: &Path) {
        let told = self.call("Page.captureScreenshot", json!({ "format": "png" })).await;
        let bytes = STANDARD.decode(told["data"].as_str().unwrap_or_default()).expect("base64");
        std::fs::write(file, bytes).expect("a file");
    }

    /// What went wrong in the page so far: exceptions, and what its security policy has stopped.
    pub fn problems(&self) -> Vec<String> {
        let told = |event: &Value| match event["method"].as_str() {
            Some("Runtime.exceptionThrown") => Some(event["params"]["exceptionDetails"].to_string()),
            Some("Log.entryAdded") => Some(event["params"]["entry"]["text"].to_string()),
            _ => None,
        };
        // A page that asks who is signed in, or for what is not there, is answered with a status that says so.
        let expected = |text: &String| text.contains("the server responded with a status of");
        self.events.iter().filter_map(told).filter(|text| !expected(text)).collect()
    }
}
