//! A real Chromium, driven by chromedriver.

use std::{
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use fantoccini::{
    Client, ClientBuilder, Locator,
    key::Key,
    wd::{Capabilities, WebDriverCompatibleCommand},
};
use hyper_util::client::legacy::connect::HttpConnector;
use m365_ledger::config::environment;
use nix::{
    sys::signal::{Signal, killpg},
    unistd::{Pid, geteuid},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
    sync::{Mutex, MutexGuard},
};
use url::Url;

/// Set to leave the tests in a browser out where there is none.
const WITHOUT: &str = "M365_LEDGER_TEST_WITHOUT_BROWSER";
/// A folder; when it is set, the tests leave pictures of the pages there.
const SCREENSHOTS: &str = "M365_LEDGER_SCREENSHOTS";

/// How wide a window is, if nothing else is said.
const WIDTH: u32 = 1180;

/// One at a time: a browser takes what memory and processors it finds.
static TURN: Mutex<()> = Mutex::const_new(());

/// A browser with a profile of its own, gone at the end of the test.
pub struct Browser {
    client: Client,
    driver: Child,
    _home: TempDir,
    _turn: MutexGuard<'static, ()>,
}

/// A command of chromedriver's own: its path behind the session, and its body.
#[derive(Debug)]
struct Own(&'static str, Value);

impl WebDriverCompatibleCommand for Own {
    fn endpoint(&self, base: &Url, session: Option<&str>) -> Result<Url, url::ParseError> {
        base.join(&format!("session/{}/{}", session.unwrap_or_default(), self.0))
    }

    fn method_and_body(&self, _: &Url) -> (axum::http::Method, Option<String>) {
        (axum::http::Method::POST, Some(self.1.to_string()))
    }
}

impl Browser {
    /// `None`: whoever runs the tests wants to do without.
    pub async fn start() -> Option<Self> {
        if environment().contains_key(WITHOUT) {
            eprintln!("LEFT OUT: {WITHOUT} is set, so nothing is tried in a browser");
            return None;
        }
        let turn = TURN.lock().await;
        let home = tempfile::tempdir().expect("a folder");
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .env("HOME", home.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // With the browser that it starts, so that both can be ended when a test fails.
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| {
                panic!(
                    "chromedriver: {error}. `scripts/install-deps.sh browser` installs it on Debian; where there is no \
                     browser, set {WITHOUT}=1 to leave these tests out"
                )
            });
        let mut lines = BufReader::new(driver.stdout.take().expect("a pipe")).lines();
        let port = loop {
            let line = lines.next_line().await.expect("its output can be read").expect("it says its port");
            if let Some((_, port)) = line.split_once("successfully on port ") {
                break port.trim_end_matches('.').parse::<u16>().expect("a port");
            }
        };
        // Somebody has to listen, or it blocks when the pipe is full.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let mut arguments = vec![
            "--headless=new".to_owned(),
            "--disable-gpu".to_owned(),
            "--disable-dev-shm-usage".to_owned(),
            "--disable-background-networking".to_owned(),
            "--no-first-run".to_owned(),
            "--hide-scrollbars".to_owned(),
            "--force-color-profile=srgb".to_owned(),
            format!("--user-data-dir={}", home.path().join("profile").display()),
        ];
        if geteuid().is_root() {
            arguments.push("--no-sandbox".to_owned());
        }
        let capabilities: Capabilities = serde_json::from_value(json!({
            "goog:chromeOptions": { "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
        }))
        .expect("an object");
        let mut builder = ClientBuilder::new(HttpConnector::new());
        let client = builder.capabilities(capabilities).connect(&format!("http://127.0.0.1:{port}")).await;
        let client = client.expect("chromium starts");
        let browser = Self { client, driver, _home: home, _turn: turn };
        browser.window(WIDTH, 900).await;
        Some(browser)
    }

    /// Ends the session in an orderly way.
    pub async fn close(self) {
        self.client.clone().close().await.expect("it closes");
    }

    pub async fn open(&self, url: &str) {
        self.client.goto(url).await.unwrap_or_else(|error| panic!("{url}: {error}"));
    }

    pub async fn title(&self) -> String {
        self.client.title().await.expect("a title")
    }

    /// What people see of the first element that fits.
    pub async fn text(&self, css: &str) -> String {
        let found = self.client.find(Locator::Css(css)).await.unwrap_or_else(|error| panic!("{css}: {error}"));
        found.text().await.expect("a text")
    }

    pub async fn count(&self, css: &str) -> usize {
        self.client.find_all(Locator::Css(css)).await.expect("a list").len()
    }

    pub async fn click(&self, css: &str) {
        let found = self.client.find(Locator::Css(css)).await.unwrap_or_else(|error| panic!("{css}: {error}"));
        found.click().await.unwrap_or_else(|error| panic!("{css}: {error}"));
    }

    /// Follows the link of this text.
    pub async fn follow(&self, text: &str) {
        let found = self.client.find(Locator::LinkText(text)).await.unwrap_or_else(|error| panic!("{text}: {error}"));
        found.click().await.unwrap_or_else(|error| panic!("{text}: {error}"));
    }

    /// Types into the element that has the focus.
    pub async fn press(&self, keys: &str) {
        self.client.active_element().await.expect("a focus").send_keys(keys).await.expect("keys");
    }

    pub async fn tab(&self) {
        self.press(&String::from(char::from(Key::Tab))).await;
    }

    pub async fn enter(&self) {
        self.press(&String::from(char::from(Key::Enter))).await;
    }

    /// The value of a script that returns one. It is run by the driver: the page itself may run none.
    pub async fn script(&self, script: &str) -> Value {
        self.client.execute(script, Vec::new()).await.unwrap_or_else(|error| panic!("{script}: {error}"))
    }

    /// Waits until a script returns true.
    pub async fn until(&self, what: &str, script: &str) {
        let begun = Instant::now();
        while self.script(script).await != json!(true) {
            assert!(begun.elapsed() < Duration::from_secs(30), "it never came true that {what}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub async fn window(&self, width: u32, height: u32) {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.devtools("Emulation.setDeviceMetricsOverride", size).await;
    }

    pub async fn dark(&self, dark: bool) {
        let value = if dark { "dark" } else { "light" };
        let media = json!({ "features": [{ "name": "prefers-color-scheme", "value": value }] });
        self.devtools("Emulation.setEmulatedMedia", media).await;
    }

    pub async fn devtools(&self, command: &str, parameters: Value) -> Value {
        let own = Own("goog/cdp/execute", json!({ "cmd": command, "params": parameters }));
        self.client.issue_cmd(own).await.unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    async fn log(&self, kind: &str) -> Vec<Value> {
        let log = self.client.issue_cmd(Own("se/log", json!({ "type": kind }))).await.expect("a log");
        log.as_array().expect("a list").clone()
    }

    /// Nothing was complained of since the last time, and nothing was asked of anybody but `origin`. A page that breaks its
    /// own policy is complained of.
    pub async fn assert_quiet(&self, origin: &str) {
        assert_eq!(self.log("browser").await, Vec::<Value>::new(), "the console is empty");
        let asked: Vec<String> = self.log("performance").await.iter().filter_map(asked).collect();
        assert!(asked.iter().any(|url| url.starts_with(origin)), "the log of requests is kept: {asked:?}");
        // The browser's own first page is made of chrome:// and data:, which come from no network.
        let network = |url: &&String| url.starts_with("http") || url.starts_with("ws");
        let foreign: Vec<_> = asked.iter().filter(network).filter(|url| !url.starts_with(origin)).collect();
        assert!(foreign.is_empty(), "{foreign:?}");
    }

    /// Leaves a picture of the page down to the end of the element that `last` names, if pictures are wanted.
    pub async fn picture(&self, name: &str, last: &str) {
        self.picture_from(name, "body", last).await;
    }

    /// Leaves a picture from the beginning of one element to the end of another one, if pictures are wanted.
    pub async fn picture_from(&self, name: &str, first: &str, last: &str) {
        let Some(folder) = environment().remove(SCREENSHOTS) else { return };
        let script = format!(
            "scrollTo(0, 0); document.activeElement.blur();
             const [first, last] = ['{first}', '{last}'].map(css => document.querySelector(css));
             const top = Math.max(0, Math.floor(first.getBoundingClientRect().top) - 18);
             const below = last.tagName === 'TR' ? 0 : 18;
             return [top, Math.ceil(last.getBoundingClientRect().bottom) + below - top]"
        );
        let place = self.script(&script).await;
        let clip = json!({ "x": 0, "y": place[0], "width": WIDTH, "height": place[1], "scale": 1 });
        let parameters = json!({ "format": "png", "captureBeyondViewport": true, "clip": clip });
        let picture = self.devtools("Page.captureScreenshot", parameters).await;
        let bytes = BASE64_STANDARD.decode(picture["data"].as_str().expect("a picture"));
        let path = PathBuf::from(folder).join(format!("{name}.png"));
        std::fs::write(&path, bytes.expect("base64")).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if let Some(group) = self.driver.id().and_then(|id| i32::try_from(id).ok()) {
            let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
        }
    }
}

/// The address of a request in the log of the network.
fn asked(entry: &Value) -> Option<String> {
    let message: Value = serde_json::from_str(entry["message"].as_str()?).ok()?;
    let message = &message["message"];
    let sent = message["method"] == "Network.requestWillBeSent";
    sent.then(|| message["params"]["request"]["url"].as_str().map(str::to_owned)).flatten()
}
