//! What the tests that run the real binary are made of: a scripted origin server on a real socket, a
//! running proxy, and a client that shows what is on the wire.
#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(missing_docs, reason = "names say it all here")]

pub mod browser;
pub mod engine;
pub mod exchanges;
pub mod origin;
pub mod proxy;
#[cfg(feature = "redis")]
pub mod redis;
pub mod seeded;
#[cfg(feature = "redis")]
pub mod shared;
pub mod stored;
pub mod terminal;
pub mod wire;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use caching_proxy::clock::DeltaSeconds;
use caching_proxy::message::request::RequestLimits;
use caching_proxy::message::target::OriginUrl;
use caching_proxy::policy::freshness::FreshnessRules;
use caching_proxy::policy::key::KeyRules;
use caching_proxy::policy::reuse::{Mode, ReuseRules};
use caching_proxy::policy::storing::StoringRules;
use caching_proxy::proxy::Settings;

/// An engine in front of `http://o.test`, as the command line's defaults would have it.
pub fn settings() -> Settings {
    let window = DeltaSeconds(86_400);
    Settings {
        origin: OriginUrl::parse("http://o.test").expect("a URL"),
        origin_authorization: None,
        own_authority: "127.0.0.1:3000".to_string(),
        reuse: ReuseRules {
            mode: Mode::Standard,
            disabled: false,
            share_credentials: false,
            reuses_max: None,
            stale_while_revalidate: DeltaSeconds::ZERO,
            stale_if_error: window,
        },
        storing: StoringRules {
            freshness: FreshnessRules {
                cache_ttl: None,
                default_ttl: DeltaSeconds::MAX,
                force: false,
            },
            share_cookies: false,
            stale_if_error: window,
            stale_while_revalidate: DeltaSeconds::ZERO,
            object_bytes_max: 1 << 20,
        },
        key: KeyRules::default(),
        follow_redirects: false,
        no_browser_cache: false,
        preserve_host: false,
        public_url: None,
        trusted: Vec::new(),
        limits: RequestLimits::default(),
        purgers: Vec::new(),
    }
}

/// Nothing in a test takes this long, unless something hangs.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Between two looks at what a test waits for: the processor belongs to those that it waits for.
pub fn pause() {
    std::thread::park_timeout(Duration::from_millis(1));
}

pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "it does not happen: {what}");
        pause();
    }
}

/// A folder that is removed with all that is in it.
pub struct TemporaryFolder(PathBuf);

impl TemporaryFolder {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let name = format!("caching-proxy-test-{}-{number}", std::process::id());
            let path = std::env::temp_dir().join(name);
            match std::fs::create_dir(&path) {
                Ok(()) => return Self(path),
                // A program with several copies of this module counts in each of them.
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => panic!("a temporary folder: {error}"),
            }
        }
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// `NAME: value` pairs, separated by `; ` where a name follows. `DATE` is the present moment, and
/// `DATE+60` or `DATE-60` one that is a minute away.
pub fn field_lines(text: &str) -> Vec<(String, String)> {
    let mut lines: Vec<(String, String)> = Vec::new();
    for part in text.split("; ").filter(|part| !part.is_empty()) {
        let is_name = |name: &str| {
            name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        };
        match part.split_once(':') {
            Some((name, value)) if is_name(name) && !name.is_empty() => {
                lines.push((name.to_string(), with_date(value.trim_start())));
            }
            _ => {
                let last = lines.last_mut().expect("a field begins with its name");
                last.1.push_str("; ");
                last.1.push_str(part);
            }
        }
    }
    lines
}

fn with_date(value: &str) -> String {
    let Some(offset) = value.strip_prefix("DATE") else { return value.to_string() };
    let offset: i64 = if offset.is_empty() { 0 } else { offset.parse().expect("seconds") };
    let now = caching_proxy::clock::Clock::System.now().seconds();
    let moment = caching_proxy::clock::Timestamp::from_seconds(now.saturating_add_signed(offset));
    caching_proxy::message::date::format(moment)
}
