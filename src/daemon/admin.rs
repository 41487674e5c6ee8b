//! Serves the control interface: over a Unix socket always, over TCP where `--admin` asks for it.
//!
//! Over the Unix socket the folder's permissions say who may ask. Over TCP a token does, if there is
//! one.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::slice;
use std::sync::Arc;
use std::time::Duration;

use caching_proxy::cli::config::Config;
use caching_proxy::control::{About, Control, Live};
use caching_proxy::front::workers::Pool;
use caching_proxy::front::{ConnectionLimits, FrontSettings, event, private};
use caching_proxy::message::request::RequestLimits;
use caching_proxy::proxy::BlockingDriver;

use crate::daemon::error::StartError;
use crate::daemon::instances::{self, OwnSocket, Purpose};
use crate::daemon::listen;
use crate::daemon::stores;

/// Clients of the control interface over TCP at a time.
const CLIENTS_MAX: usize = 64;
/// The most threads that answer them.
const WORKERS: usize = 2;
/// The shortest token that is taken, in bytes: a shorter one can be guessed.
const TOKEN_BYTES_MIN: usize = 16;

/// The control interface while it is served. Dropped, it takes the name of its Unix socket with it.
pub struct AdminSockets {
    _socket: Option<OwnSocket>,
    /// The front over TCP, and its listening socket.
    front: Option<(event::EventFront, TcpListener)>,
}

impl AdminSockets {
    /// Lets clients connect over TCP; until then a start may still fail.
    pub fn open(&self) -> Result<(), StartError> {
        let Some((front, listener)) = &self.front else { return Ok(()) };
        listen::open(slice::from_ref(listener))?;
        front.accept().map_err(|source| StartError::System("the control interface", source))
    }
}

/// The control interface of the proxy at `local`. It is served over its Unix socket from here on.
pub fn start(
    config: &Config,
    driver: &BlockingDriver,
    local: SocketAddr,
    live: &Arc<Live>,
) -> Result<AdminSockets, StartError> {
    let proxy = driver.proxy();
    let about = About {
        address: local.to_string(),
        origin: config.origin.clone(),
        store: proxy.cache().name(),
        cache: stores::identity(config).map_err(StartError::Store)?,
        since: proxy.now(),
    };
    if config.admin.is_none() && config.admin_token.is_some() {
        log::warn!("--admin-token: of no use without --admin; the Unix socket needs no token");
    }
    // Errors over TCP stop the start: the operator has named the address and the token.
    let front = match config.admin {
        Some(address) => Some(over_tcp(config, address, driver, (about.clone(), live))?),
        None => None,
    };
    let control = Control::new(driver.clone(), about, None).with_history(Arc::clone(live));
    let serve = |(listener, socket)| {
        let handler = Arc::new(move |request: &_, content: &[u8]| control.answer(request, content));
        private::serve(listener, handler).map(|()| socket).map_err(|error| error.to_string())
    };
    let socket = instances::listen(local.port(), Purpose::Control).and_then(serve);
    // Nobody has asked for the Unix socket, and containers may have no place for it: no reason not to start.
    let socket = socket.inspect_err(|error| log::warn!("no control socket: {error}")).ok();
    Ok(AdminSockets { _socket: socket, front })
}

/// The control interface over TCP: made ready, not yet open.
fn over_tcp(
    config: &Config,
    address: SocketAddr,
    driver: &BlockingDriver,
    (about, live): (About, &Arc<Live>),
) -> Result<(event::EventFront, TcpListener), StartError> {
    let token = match &config.admin_token {
        Some(path) => Some(token(path)?),
        None => None,
    };
    let listener = listen::at(address)?;
    let socket =
        listener.try_clone().map_err(|source| StartError::System("descriptors", source))?;
    if let Ok(local) = listener.local_addr() {
        log::info!("control interface at http://{local}");
    }
    let control = Control::new(driver.clone(), about, token);
    let control = control.with_history(Arc::clone(live)).with_page();
    let settings = FrontSettings {
        connections: ConnectionLimits {
            // Not the flags' bounds, which are about the proxy's own clients.
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            connections_max: CLIENTS_MAX,
        },
        wait_max: Duration::from_secs(60),
        limits: RequestLimits::default(),
        access_log: None,
        health_path: None,
        origin: None,
        handler: Some(Arc::new(move |request, content| control.answer_client(request, content))),
    };
    // Counters of its own, which nobody reads: its clients and workers are not the proxy's, and a full
    // pool of workers must not keep the operator from asking why.
    let started = Pool::elastic(WORKERS, CLIENTS_MAX, &Arc::default())
        .and_then(|pool| event::EventFront::new(vec![listener], driver.clone(), pool, 1, settings));
    let front = started.map_err(|source| StartError::System("threads for --admin", source))?;
    Ok((front, socket))
}

/// Reads the token from its file; a flag would show it to everybody who can list processes.
fn token(path: &Path) -> Result<String, StartError> {
    let flag = "--admin-token";
    let file = |source| StartError::File { flag, path: path.to_path_buf(), source };
    let token = fs::read_to_string(path).map_err(file)?.trim().to_string();
    if token.len() < TOKEN_BYTES_MIN || token.contains(char::is_whitespace) {
        let what = format!("expected one word of at least {TOKEN_BYTES_MIN} bytes");
        return Err(file(std::io::Error::other(what)));
    }
    Ok(token)
}
