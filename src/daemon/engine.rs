//! Engines that listen nowhere, for commands: one over the store that is named, and one that only reads
//! URLs.
//!
//! A command about a store that no running proxy uses opens the store itself and asks it the same
//! questions, by the same code that answers them in a running proxy.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Method, StatusCode, Version};

use caching_proxy::cli::config::Config;
use caching_proxy::clock::Clock;
use caching_proxy::control::{About, Control, Imported, import};
use caching_proxy::message::body::Body;
use caching_proxy::message::network::Network;
use caching_proxy::message::request::Request;
use caching_proxy::proxy::archive::Whose;
use caching_proxy::proxy::archive::har::HarEntry;
use caching_proxy::proxy::{BlockingDriver, Proxy, Settings};
use caching_proxy::store::cache::Cache;
use caching_proxy::store::memory;

use crate::daemon::error::StartError;
use crate::daemon::stores;
use crate::daemon::{engine, origin_url, settings};

/// For how long the store may take to write what is still to be written.
const FLUSH_MAX: Duration = Duration::from_secs(60);

/// An engine for one command, over the store that the flags name.
pub struct OwnEngine {
    /// The engine itself.
    pub driver: BlockingDriver,
    /// The Host field of its requests, so that their keys are those of the proxy that the flags
    /// describe.
    pub host: String,
    control: Control,
    /// Whose responses are imported: those of any origin server, if none is named.
    whose: Whose,
}

impl OwnEngine {
    /// Opens the store that the flags name; an error if it cannot be reached.
    pub fn new(config: &Config) -> Result<Self, StartError> {
        let origin = origin_url(&config.origin)?;
        let local = SocketAddr::new(config.host, config.port);
        let store = stores::open(config).map_err(StartError::Store)?;
        // A proxy goes on with memory alone while its store cannot be reached. A command that did so
        // would report success about nothing.
        if let Some(error) = store.trouble() {
            return Err(StartError::Store(format!("{}: {error}", store.name())));
        }
        let driver = engine(config, store, &origin, local, &Arc::default())?.driver;
        let about = About {
            address: local.to_string(),
            origin: config.origin.clone(),
            store: String::new(),
            cache: stores::identity(config).map_err(StartError::Store)?,
            since: driver.proxy().now(),
        };
        let control = Control::new(driver.clone(), about, None);
        let whose = if config.origin_given { Whose::OwnOrigin } else { Whose::AnyOrigin };
        Ok(Self { driver, host: local.to_string(), control, whose })
    }

    /// Answers as the control interface of a running proxy does. Any status but 200 is an error.
    pub fn answer(&self, method: &str, target: &str, content: &[u8]) -> Result<String, String> {
        let response = self.control.answer(&request(method, target)?, content);
        let content = match response.body {
            Body::Whole(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            _ => String::new(),
        };
        // The memory of this engine was empty at first: an answer that the store was not asked for
        // would look like an empty store.
        let store = self.driver.proxy().cache();
        if method == "GET" && !store.is_ready() {
            return Err(format!("{}: it cannot be reached", store.name()));
        }
        if response.status == StatusCode::OK {
            Ok(content)
        } else {
            Err(content.trim_end().to_string())
        }
    }

    /// Stores recorded responses, one batch of a recording; gives the outcome.
    pub fn import(&self, entries: Vec<HarEntry>) -> Imported {
        import(self.driver.proxy(), entries, self.whose)
    }

    /// Waits until the store has written everything; the error is that it has not, or that something
    /// was dropped because the queue was full.
    pub fn close(&self) -> Result<(), String> {
        let store = self.driver.proxy().cache();
        // First the flush, then the close: closing alone gives up what is left at its deadline.
        let was_dropped = || store.usage().backing.is_some_and(|backing| backing.dropped > 0);
        let is_written = store.flush(FLUSH_MAX) && !was_dropped();
        if store.close(FLUSH_MAX) && is_written {
            Ok(())
        } else {
            Err(format!("{}: not everything was written", store.name()))
        }
    }
}

/// An engine over empty memory that knows how requests for the URLs of `origin` are keyed, and does
/// nothing else.
pub fn reader_of_urls(config: &Config, origin: &str) -> Result<Proxy, StartError> {
    let local = SocketAddr::new(config.host, config.port);
    // Keys also hold what trusted peers said of scheme and host. Whom the proxy trusted is not known
    // here, so everybody is: a selector must find all keys that it may mean.
    let everybody = [IpAddr::from([0; 4]), IpAddr::from([0; 16])];
    let everybody = everybody.iter().filter_map(|all| Network::read(&format!("{all}/0")));
    let settings =
        Settings { trusted: everybody.collect(), ..settings(config, &origin_url(origin)?, local) };
    let store = Cache::in_memory(memory::store(config.eviction, config.limits));
    let store = Arc::new(store);
    Ok(Proxy::new(settings, store, Clock::System, Arc::default()))
}

/// A request of the control interface that comes over no socket.
fn request(method: &str, target: &str) -> Result<Request, String> {
    let method = Method::from_bytes(method.as_bytes()).map_err(|error| error.to_string())?;
    let fields = [(http::header::HOST, HeaderValue::from_static("localhost"))];
    let fields = fields.into_iter().collect();
    Request::new(method, target, Version::HTTP_11, fields, None).map_err(|error| error.to_string())
}
