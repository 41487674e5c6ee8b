//! Chromium, driven by its DevTools protocol over a pipe: no port, and nothing but JSON between zero bytes.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::proxy::command_of;
use super::{PATIENCE, TemporaryFolder};

/// A browser with one page.
pub struct Browser {
    child: Child,
    input: ChildStdin,
    messages: Receiver<Value>,
    session: Option<String>,
    number: u64,
    /// The URLs that it has asked for.
    asked: Vec<String>,
    /// What its console says is wrong.
    complaints: Vec<String>,
    _folder: TemporaryFolder,
}

/// How a screenshot is taken.
pub struct Look {
    pub width: u32,
    pub height: u32,
    /// `light` or `dark`.
    pub scheme: &'static str,
}

impl Browser {
    /// `mapped` is a name that leads to this machine.
    pub fn start(mapped: &str) -> Self {
        let folder = TemporaryFolder::new();
        // It reads descriptor 3 and writes descriptor 4.
        let mut command = command_of("sh");
        command.args(["-c", "exec \"$0\" \"$@\" 3<&0 4>&1 1>/dev/null 2>&1", "chromium"]);
        command.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]);
        command.args([
            "--no-first-run",
            "--disable-background-networking",
            "--remote-debugging-pipe",
        ]);
        command.arg(format!("--host-resolver-rules=MAP {mapped} 127.0.0.1"));
        command.arg(format!("--user-data-dir={}", folder.path().display()));
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("chromium runs");
        let input = child.stdin.take().expect("a pipe");
        let mut output = BufReader::new(child.stdout.take().expect("a pipe"));
        let (send, messages) = sync_channel(10_000);
        thread::spawn(move || {
            let mut message = Vec::new();
            while output.read_until(0, &mut message).is_ok_and(|count| count > 0) {
                message.pop();
                let value = serde_json::from_slice(&message).expect("JSON");
                if send.send(value).is_err() {
                    return;
                }
                message.clear();
            }
        });
        let (session, asked, complaints) = (None, Vec::new(), Vec::new());
        let mut browser =
            Self { child, input, messages, session, number: 0, asked, complaints, _folder: folder };
        let target = browser.call("Target.createTarget", &json!({ "url": "about:blank" }));
        let attached = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = browser.call("Target.attachToTarget", &attached);
        browser.session = attached["sessionId"].as_str().map(str::to_string);
        for domain in ["Page", "Runtime", "Network", "Log"] {
            browser.call(&format!("{domain}.enable"), &json!({}));
        }
        browser
    }

    /// Calls a method of the protocol; its result.
    pub fn call(&mut self, method: &str, parameters: &Value) -> Value {
        self.number += 1;
        let mut message = json!({ "id": self.number, "method": method, "params": parameters });
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        self.input.write_all(format!("{message}\0").as_bytes()).expect("it reads");
        loop {
            let message = self.messages.recv_timeout(PATIENCE).expect("chromium answers");
            if message["id"] == self.number {
                assert!(message["error"].is_null(), "{method}: {message}");
                return message["result"].clone();
            }
            if message["method"] == "Network.requestWillBeSent" {
                let url = message["params"]["request"]["url"].as_str().expect("a URL");
                self.asked.push(url.to_string());
            }
            let is_wrong = message["method"] == "Runtime.exceptionThrown"
                || message["params"]["entry"]["level"] == "error";
            if is_wrong {
                self.complaints.push(message["params"].to_string());
            }
        }
    }

    /// Goes to a URL; the page need not be whole yet.
    pub fn go(&mut self, url: &str) {
        self.call("Page.navigate", &json!({ "url": url }));
    }

    /// The value of an expression in the page.
    pub fn value(&mut self, expression: &str) -> Value {
        let parameters =
            json!({ "expression": expression, "awaitPromise": true, "returnByValue": true });
        let result = self.call("Runtime.evaluate", &parameters);
        assert!(result["exceptionDetails"].is_null(), "{expression}: {result}");
        result["result"]["value"].clone()
    }

    /// Waits until an expression is true in the page, whatever page that is meanwhile.
    pub fn wait_for(&mut self, expression: &str) {
        let deadline = Instant::now() + PATIENCE;
        let safe = format!(
            "(() => {{ try {{ return Boolean({expression}); }} catch {{ return false; }} }})()"
        );
        while self.value(&safe) != true {
            if Instant::now() > deadline {
                let page = self.value("document.body.innerText");
                panic!("{expression} is not so:\n{page}");
            }
            super::pause();
        }
    }

    /// Presses a key, which has this code in Windows.
    pub fn press(&mut self, key: &str, code: u32) {
        let text = if key == "Enter" { "\r" } else { "" };
        let event = |kind: &str| json!({ "type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code, "text": text });
        self.call("Input.dispatchKeyEvent", &event("keyDown"));
        self.call("Input.dispatchKeyEvent", &event("keyUp"));
    }

    /// The URLs that it has asked for.
    pub fn asked(&self) -> &[String] {
        &self.asked
    }

    /// What its console has said is wrong: scripts that failed, and what a policy of the page forbids.
    pub fn complaints(&self) -> &[String] {
        &self.complaints
    }

    /// Shows the page like this.
    pub fn look(&mut self, look: &Look) {
        let Look { width, height, scheme } = look;
        let size =
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.call("Emulation.setDeviceMetricsOverride", &size);
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.call("Emulation.setEmulatedMedia", &json!({ "features": features }));
    }

    /// A screenshot of the page, in `target/`.
    pub fn screenshot(&mut self, name: &str) -> PathBuf {
        let shot = json!({ "format": "png", "captureBeyondViewport": false });
        let shot = self.call("Page.captureScreenshot", &shot);
        let bytes = STANDARD.decode(shot["data"].as_str().expect("a picture")).expect("base64");
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target").join(name);
        fs::write(&path, bytes).expect("a file");
        path
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Its processes end with it: they notice that the pipe is closed.
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
    }
}
