//! The order in which a proxy starts and ends, from a configuration to a running proxy and back to
//! nothing.
//!
//! `listen.rs` has the sockets, `takeover.rs` the upgrade without loss, `admin.rs` the control
//! interface, `stores.rs` the store. The engine and the fronts are put together here from the
//! configuration, which the library does not know.

use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::num::NonZero;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use caching_proxy::cli::config::{Config, FrontKind};
use caching_proxy::clock::Clock;
use caching_proxy::control::Live;
use caching_proxy::front::ConnectionLimits;
use caching_proxy::front::workers::Pool;
use caching_proxy::front::{FrontSettings, event, tiny};
use caching_proxy::message::target::{OriginUrl, is_loopback, without_password};
use caching_proxy::origin::blocking::client::{OriginClient, OriginClientSettings};
use caching_proxy::origin::egress::{Egress, EgressProxy};
use caching_proxy::origin::evented::EventedSettings;
use caching_proxy::origin::gate::{self, Gate, Gated};
use caching_proxy::origin::resolver::Names;
use caching_proxy::origin::trust::roots;
use caching_proxy::origin::{Origin, Unreachable};
use caching_proxy::policy::reuse::Mode;
use caching_proxy::proxy::{BlockingDriver, Proxy, Settings, WIDE_MAX};
use caching_proxy::stats::{AccessLog, Stats};
use caching_proxy::store::cache::Cache;
use caching_proxy::vital;

use crate::daemon::error::StartError;
use crate::daemon::instances::{OwnSocket, Purpose};
use crate::daemon::listen::Sockets;
use crate::daemon::ready::ReadyFile;
use crate::daemon::takeover::Handover;

pub mod admin;
pub mod engine;
pub mod error;
pub mod instances;
mod listen;
pub mod log_lines;
mod ready;
pub mod stores;
mod systemd;
mod takeover;

/// For how long the store may write what is still to be written at the end of a take-over.
const FLUSH_MAX: Duration = Duration::from_secs(5);
/// For how long requests under way may take where another process has taken over.
const HANDOVER_DRAIN_MAX: Duration = Duration::from_secs(600);
/// Descriptors that are not for clients: the log, the listeners, the store, and origin connections
/// beside those of the workers.
const DESCRIPTORS_KEPT: u64 = 64;
/// Descriptors of pipes. Of a limit below eight times as many a part is kept for them: a body that finds none is passed
/// on without a pipe.
const OF_PIPES: u64 = 2 * WIDE_MAX as u64;

const SECOND: Duration = Duration::from_secs(1);

/// Runs the proxy until a signal ends it.
///
/// The order is the point. Whatever can fail does so before the listening port opens: a client must not be
/// accepted by a proxy that then does not start. The store comes before the sockets, so that a store which
/// cannot be used leaves the process alone that was to be taken over.
pub fn run(config: &Config) -> Result<(), StartError> {
    log_lines::to_stderr(config.log_level);
    // Before anything is opened: a signal that comes during the start is kept, and ends the process in an
    // orderly way once it waits.
    let signals = Signals::new([SIGTERM, SIGINT, SIGHUP]);
    let mut signals = signals.map_err(|source| StartError::System("signals", source))?;
    refuse_unsafe_front(config)?;
    // A file that a killed process left would say that this one serves. That of a proxy which is to be taken
    // over is true until this one serves in its place.
    if !config.take_over {
        remove_ready_file(config);
    }
    let origin = origin_url(&config.origin)?;
    let store = stores::open(config).map_err(StartError::Store)?;
    // The sockets have their addresses from here on, and do not listen yet.
    let Sockets { listeners, predecessor, stay } = listen::sockets(config)?;
    let local =
        listeners[0].local_addr().map_err(|source| StartError::System("own address", source))?;
    refuse_ourselves(&origin, local)?;
    let stats = Arc::new(Stats::default());
    let engine = engine(config, store, &origin, local, &stats)?;
    let driver = &engine.driver;
    stores::begin_load(config, driver.proxy().cache());
    let Serving { front, control, handover } = serve(config, listeners, &engine, &stats)?;
    // Only now is the old process told: had anything failed, it would have gone on as before.
    if let Some(predecessor) = predecessor {
        predecessor.retire();
    }
    let handover = handover.as_ref().map(|(handover, _)| handover);
    let ending = EndSettings { drain_timeout: config.drain_timeout, sockets_stay: stay };
    let ends_by = wait(&mut signals, &front, handover, control, &ending);
    // The ready file is the successor's by now, which has written its own in the same place.
    if !handover.is_some_and(Handover::is_done) {
        remove_ready_file(config);
    }
    close_store(driver.proxy(), ends_by);
    log::info!("{}", stats.summary());
    Ok(())
}

/// What serves clients and the operator while the proxy runs.
struct Serving {
    front: RunningFront,
    control: admin::AdminSockets,
    /// With its socket, which is removed when the process ends.
    handover: Option<(Handover, OwnSocket)>,
}

/// Makes everything ready that serves, and lets clients in last of all.
fn serve(
    config: &Config,
    listeners: Vec<TcpListener>,
    engine: &Engine,
    stats: &Arc<Stats>,
) -> Result<Serving, StartError> {
    let local =
        listeners[0].local_addr().map_err(|source| StartError::System("own address", source))?;
    let copies: io::Result<Vec<_>> = listeners.iter().map(TcpListener::try_clone).collect();
    let copies = copies.map_err(|source| StartError::System("descriptors", source))?;
    let driver = &engine.driver;
    let front = front(config, listeners, engine, stats)?;
    let live = Arc::new(Live::new(driver.clone()));
    start_timer(Arc::clone(&live), Arc::clone(driver.proxy()), config.clean_interval)?;
    let ready_file =
        config.ready_file.as_deref().map(|path| ReadyFile::write(path, local)).transpose()?;
    let control = admin::start(config, driver, local, &live)?;
    // From here on clients get in. What can still fail are these calls of the system themselves.
    control.open()?;
    listen::open(&copies)?;
    front.accept().map_err(|source| StartError::System("accepting connections", source))?;
    // The front over tiny_http counts the descriptors that listen, to see whether accepting has
    // stopped: a copy
    // that waited to be handed over would deceive it.
    let handover = if config.front == FrontKind::TinyHttp {
        drop(copies);
        None
    } else {
        offer_handover(local, copies)
    };
    announce(local, ready_file)?;
    systemd::notify_ready();
    Ok(Serving { front, control, handover })
}

/// tiny_http has hazards that cannot be mended from outside (`front::tiny`), so it is not for a network.
fn refuse_unsafe_front(config: &Config) -> Result<(), StartError> {
    let is_plain = config.front == FrontKind::TinyHttp;
    if is_plain && !is_loopback(&config.host.to_string()) && !config.allow_unsafe_front {
        return Err(StartError::UnsafeFront(config.host));
    }
    Ok(())
}

fn remove_ready_file(config: &Config) {
    if let Some(path) = &config.ready_file {
        let _ = std::fs::remove_file(path);
    }
}

/// Lets the store behind memory write what is still to be written, until `ends_by`.
fn close_store(proxy: &Proxy, ends_by: Instant) {
    if !proxy.cache().close(ends_by.saturating_duration_since(Instant::now())) {
        log::warn!("the store has not written everything in time");
    }
}

/// Stands ready to hand `listeners` over. `None` where that cannot be: the next upgrade then has to
/// stop this process first, which is no reason not to start.
fn offer_handover(local: SocketAddr, listeners: Vec<TcpListener>) -> Option<(Handover, OwnSocket)> {
    // Two steps of best effort; without either one nobody can take over, and nobody is harmed.
    let (handovers, socket) = instances::listen(local.port(), Purpose::Handover).ok()?;
    Some((Handover::offer(handovers, listeners).ok()?, socket))
}

/// Reads the origin server's URL; the error shows it without its password.
pub fn origin_url(url: &str) -> Result<OriginUrl, StartError> {
    OriginUrl::parse(url).map_err(|what| {
        let seen = without_password(url);
        StartError::Origin(format!(
            "--origin {seen}: {what}; expected http://HOST[:PORT][/PATH] or https://…"
        ))
    })
}

/// Refuses an origin server that is the proxy itself: every miss would be a request to itself, until no
/// worker is left.
fn refuse_ourselves(origin: &OriginUrl, local: SocketAddr) -> Result<(), StartError> {
    let bare = origin.server.host.trim_start_matches('[').trim_end_matches(']');
    let ip: Option<IpAddr> = bare.parse().ok();
    let own = local.ip();
    // Names other than localhost are not looked up: a name may lead here today and elsewhere tomorrow.
    // What passes here all the same is caught request by request, by `Via` (RFC 9110 §7.6.3).
    let same_host = ip == Some(own)
        || ip.is_some_and(|ip| ip.is_unspecified())
        || (is_loopback(&origin.server.host) && (own.is_loopback() || own.is_unspecified()));
    if same_host && origin.server.port == local.port() {
        return Err(StartError::OriginIsUs(Box::new(origin.clone()), local));
    }
    Ok(())
}

/// An engine, and what carries out its steps.
pub struct Engine {
    /// On threads that may wait.
    pub driver: BlockingDriver,
    /// How event loops reach the origin server; `None` if nothing may.
    pub evented: Option<Arc<EventedSettings>>,
}

/// The engine, with the origin server as the flags allow it to be reached. Whatever weakens HTTP's
/// rules is said in the log, in the flag's own words.
pub fn engine(
    config: &Config,
    store: Arc<Cache>,
    origin_url: &OriginUrl,
    local: SocketAddr,
    stats: &Arc<Stats>,
) -> Result<Engine, StartError> {
    match config.reuse.mode {
        Mode::Standard => {}
        Mode::Force => log::warn!("--cache-mode force: HTTP's rules are off; for development only"),
        Mode::Offline => log::info!("--cache-mode offline: the origin server is never contacted"),
    }
    if config.reuse.share_credentials {
        log::warn!(
            "--share-credentials: what one client's credentials brought is given to all clients, with \
             other credentials or none"
        );
    }
    let secrets = config.key.ignored_secrets();
    if !secrets.is_empty() {
        log::warn!(
            "--ignore-param: parameters such as {} do not matter; requests that differ in them share \
             one answer",
            secrets.join(", ")
        );
    }
    // `offline` promises that nothing reaches the origin server: there is no client that could, so no
    // look-up of a name either.
    let mut evented = None;
    let origin: Arc<dyn Origin> = if config.reuse.mode == Mode::Offline {
        Arc::new(Unreachable)
    } else {
        let client = origin_client(config, origin_url, local)?;
        // A request waits for its turn no longer than it would wait for the origin server itself.
        let limits = gate::Limits {
            rate: config.origin_rate,
            concurrency: config.origin_concurrency,
            connections: Some(config.origin_connections),
            wait_max: config.first_byte_timeout,
        };
        // One for event loops and for threads that wait: the limits are for both together.
        let gate = Gate::new(Clock::System, limits);
        evented = Some(Arc::new(client.evented(gate.clone())));
        Arc::new(Gated::behind(gate, Arc::new(client)))
    };
    let settings = settings(config, origin_url, local);
    let proxy = Proxy::new(settings, store, Clock::System, Arc::clone(stats));
    Ok(Engine { driver: BlockingDriver::new(Arc::new(proxy), origin), evented })
}

/// The engine's settings as the flags have them, for a proxy at `local`.
pub fn settings(config: &Config, origin: &OriginUrl, local: SocketAddr) -> Settings {
    Settings {
        origin: origin.clone(),
        origin_authorization: config.origin_authorization.clone(),
        own_authority: local.to_string(),
        reuse: config.reuse,
        storing: config.storing,
        key: config.key.clone(),
        follow_redirects: config.follow_redirects,
        no_browser_cache: config.no_browser_cache,
        preserve_host: config.preserve_host,
        public_url: config.public_url.clone(),
        trusted: config.trusted.clone(),
        limits: config.request,
        purgers: config.purgers.clone(),
    }
}

/// The client of the origin server, with the roots that it trusts.
fn origin_client(
    config: &Config,
    origin: &OriginUrl,
    local: SocketAddr,
) -> Result<OriginClient, StartError> {
    let trusted = if config.insecure {
        log::warn!("--insecure: the origin server's certificate is not verified");
        None
    } else {
        let trusted = roots(config.ca_cert.as_deref()).map_err(StartError::Origin)?;
        for warning in &trusted.warnings {
            log::warn!("{warning}");
        }
        Some(trusted)
    };
    let settings = OriginClientSettings {
        connect_timeout: config.connect_timeout,
        origin_timeout: config.origin_timeout,
        first_byte_timeout: config.first_byte_timeout,
        roots: trusted,
        names: Names::default(),
        // More connections than workers are never in use at a time.
        idle_connections_max: config.workers,
        egress: egress(origin, local).map_err(StartError::Origin)?,
    };
    Ok(OriginClient::new(settings))
}

/// The egress proxies, as the environment names them. The error is that the origin server's own
/// cannot be used; another one is an error of the requests that a redirect leads through it.
fn egress(origin: &OriginUrl, local: SocketAddr) -> Result<Egress, String> {
    let named = Egress::from_environment(|name| std::env::var(name).ok());
    let mut egress = named.clone();
    // `http_proxy` often names the very proxy that is being started, for the other programs of the
    // machine: it would send every request to itself.
    egress.leave_out(|proxy| is_loopback(&proxy.host) && proxy.port == local.port());
    match (egress.proxy_for(&origin.server)?, named.proxy_for(&origin.server)?) {
        (Some(EgressProxy { shown, .. }), _) => {
            log::info!("the origin server is reached through proxy {shown} from the environment");
        }
        (None, Some(EgressProxy { shown, .. })) => {
            log::warn!("proxy {shown} from the environment is this one; it is not used");
        }
        (None, None) => {}
    }
    Ok(egress)
}

/// Makes the front that was asked for, with its threads; it serves nobody before `accept`.
fn front(
    config: &Config,
    mut listeners: Vec<TcpListener>,
    engine: &Engine,
    stats: &Arc<Stats>,
) -> Result<RunningFront, StartError> {
    let access_log = match &config.access_log {
        Some(path) => {
            let flag = "--access-log";
            let opened = AccessLog::open(path, config.access_format, stats);
            Some(opened.map_err(|source| StartError::File { flag, path: path.clone(), source })?)
        }
        None => None,
    };
    let connections_max = connections_max(config);
    // A request that waits for another one's answer waits as long as it would for its own.
    let settings = FrontSettings {
        connections: ConnectionLimits {
            header_timeout: config.header_timeout,
            idle_timeout: config.idle_timeout,
            connections_max,
        },
        wait_max: config.first_byte_timeout,
        limits: config.request,
        access_log,
        origin: engine.evented.clone(),
        handler: None,
        health_path: config.health_path.clone(),
    };
    // Each connection has one request at work at a time, so no more requests can be parked than there
    // are connections.
    let pool = match config.front {
        FrontKind::TinyHttp => Pool::fixed(config.workers, connections_max, stats),
        FrontKind::Event => Pool::elastic(config.workers, connections_max, stats),
    };
    let pool =
        pool.map_err(|source| StartError::System("worker threads; see --workers", source))?;
    let driver = engine.driver.clone();
    let started = match config.front {
        FrontKind::TinyHttp => {
            tiny::TinyFront::new(listeners.swap_remove(0), driver, pool, settings)
                .map(RunningFront::Tiny)
        }
        FrontKind::Event => {
            // An event loop never waits, so one a core is enough to keep all of them busy.
            let cores = || thread::available_parallelism().map_or(1, NonZero::get);
            let threads = config.threads.unwrap_or_else(cores);
            event::EventFront::new(listeners, driver, pool, threads, settings)
                .map(RunningFront::Event)
        }
    };
    started.map_err(|source| StartError::System("threads; see --threads", source))
}

/// The front that was asked for.
enum RunningFront {
    Event(event::EventFront),
    Tiny(tiny::TinyFront),
}

impl RunningFront {
    fn accept(&self) -> io::Result<()> {
        match self {
            Self::Event(front) => front.accept(),
            Self::Tiny(front) => front.accept(),
        }
    }

    fn reopen_log(&self) {
        match self {
            Self::Event(front) => front.reopen_log(),
            Self::Tiny(front) => front.reopen_log(),
        }
    }

    fn drain(&self, limit: Duration, successor: Successor) -> bool {
        match (self, successor) {
            (Self::Event(front), Successor::Nobody) => front.drain(limit),
            (Self::Event(front), Successor::Later) => front.give_way(limit),
            (Self::Event(front), Successor::Now) => front.retire(limit),
            (Self::Tiny(front), _) => front.drain(limit),
        }
    }
}

/// Which process accepts clients at the same sockets after this one.
#[derive(Clone, Copy)]
enum Successor {
    Nobody,
    /// One that systemd starts when this one has ended: in between, clients wait, and those that this one has
    /// accepted have nobody else to ask.
    Later,
    /// One that has taken over.
    Now,
}

/// How the process is to end.
struct EndSettings {
    /// `--drain-timeout`.
    drain_timeout: Duration,
    /// The listening sockets are systemd's, and stay.
    sockets_stay: bool,
}

/// `--max-connections`, or less under the descriptor limit, which is raised as far as it goes.
///
/// Each client needs two: an event loop's exchange has a connection to the origin server, and tiny_http a second
/// descriptor of the client to cut it by, while its workers have the connections.
fn connections_max(config: &Config) -> usize {
    let each = 2;
    let of_workers = if config.front == FrontKind::TinyHttp { config.workers as u64 } else { 0 };
    let kept = of_workers + DESCRIPTORS_KEPT;
    let wanted = each * config.connections_max as u64 + kept + OF_PIPES;
    // Raised, not just read: the usual soft limit of 1024 is there for select(2), which nothing here
    // uses. A limit that cannot be raised bounds the clients instead, because `accept` without
    // descriptors fails again and again while clients wait.
    let limit = getrlimit(Resource::Nofile);
    // Without a limit there is nothing to raise, and nothing to keep to.
    let Some(soft) = limit.current else { return config.connections_max };
    if soft < wanted {
        let raised = limit.maximum.map_or(wanted, |hard| wanted.min(hard)).max(soft);
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(raised), ..limit });
    }
    // The system may have refused: what counts is what it says now.
    let soft = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let kept = kept + OF_PIPES.min(soft / 8);
    let for_clients = (soft.saturating_sub(kept) / each).max(1) as usize;
    if for_clients < config.connections_max {
        // The usual limit of a system nearly fits the default, and nobody has to know.
        let most = config.connections_max;
        let level = if for_clients < most / 2 { log::Level::Info } else { log::Level::Debug };
        log::log!(
            level,
            "--max-connections {most}: {soft} file descriptors are enough for {for_clients}; see ulimit -n"
        );
    }
    config.connections_max.min(for_clients)
}

/// Starts the timer thread: once a second it looks at the counters, and after each `--cache-clean-interval` it removes
/// what is of no more use.
fn start_timer(
    live: Arc<Live>,
    proxy: Arc<Proxy>,
    interval: Option<Duration>,
) -> Result<(), StartError> {
    let tick = move || {
        let begun = Instant::now();
        let (mut look, mut sweep) =
            (begun + SECOND, interval.and_then(|interval| begun.checked_add(interval)));
        loop {
            let due = sweep.map_or(look, |sweep| sweep.min(look));
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if Instant::now() >= look {
                live.look();
                // A process that was stopped for a while does not catch up.
                look = Instant::now().max(look + SECOND);
            }
            if let Some((due, interval)) = sweep.zip(interval)
                && Instant::now() >= due
            {
                proxy.sweep();
                sweep = Instant::now().checked_add(interval);
            }
        }
    };
    vital::spawn("timer", tick).map_err(|source| StartError::System("the timer thread", source))
}

/// Tells the program that started this one that clients are served: a line on stdout, and the ready
/// file.
fn announce(local: SocketAddr, ready_file: Option<ReadyFile>) -> Result<(), StartError> {
    // The first line of stdout, with the port that the system chose for `--port 0`.
    let line = format!("listening on http://{local}\n");
    // Nobody may be reading; that is no reason to stop.
    let _ = io::stdout().write_all(line.as_bytes()).and_then(|()| io::stdout().flush());
    ready_file.map_or(Ok(()), ReadyFile::appear)
}

/// Waits for a signal to end, then for what is under way. Gives the moment by which the process is to end.
fn wait(
    signals: &mut Signals,
    front: &RunningFront,
    handover: Option<&Handover>,
    control: admin::AdminSockets,
    ending: &EndSettings,
) -> Instant {
    let Some(name) = ending_signal(signals, front) else { return Instant::now() + FLUSH_MAX };
    // The thread of the handover says so before it raises the signal. Where another process serves on, there
    // is no hurry: downloads may take their time.
    let is_handed_over = handover.is_some_and(Handover::is_done);
    let successor = match ending.sockets_stay {
        _ if is_handed_over => Successor::Now,
        true => Successor::Later,
        false => Successor::Nobody,
    };
    // Commands are for the proxy that accepts: an old process that kept its control socket was asked by
    // `proxy purge` beside its successor. Without a successor it answers until it ends.
    let _control = (!is_handed_over).then_some(control);
    // The store has a quarter of the time, at least: clients once took all of it, and nothing was written.
    let limit = if is_handed_over { HANDOVER_DRAIN_MAX } else { ending.drain_timeout * 3 / 4 };
    let begun = Instant::now();
    // The copies of the listeners go before the front's own, or the port would stay open with nobody
    // behind it.
    if let Some(handover) = handover {
        handover.withdraw();
    }
    log::info!("{name}: finishing what is under way, at most {limit:?}; again to end at once");
    if !drain_unless_signalled(signals, front, limit, successor) {
        log::warn!("some requests were not finished in time");
    }
    if is_handed_over { Instant::now() + FLUSH_MAX } else { begun + ending.drain_timeout }
}

/// The name of the signal that ends the process; SIGHUP opens the access log again. `None` if signals cannot
/// be waited for any more.
fn ending_signal(signals: &mut Signals, front: &RunningFront) -> Option<&'static str> {
    loop {
        match signals.forever().next()? {
            SIGHUP => {
                log::info!("SIGHUP: the access log is opened again");
                front.reopen_log();
            }
            SIGTERM => return Some("SIGTERM"),
            _ => return Some("SIGINT"),
        }
    }
}

/// Lets the front finish what is under way; `false` if it did not within `limit`. A second signal ends the
/// process at once.
fn drain_unless_signalled(
    signals: &mut Signals,
    front: &RunningFront,
    limit: Duration,
    successor: Successor,
) -> bool {
    thread::scope(|scope| {
        let handle = signals.handle();
        // Draining waits, so another thread listens. A SIGHUP that comes meanwhile (logrotate's) is heeded:
        // it was lost once, and the rotated file went on growing.
        let second = scope.spawn(|| {
            for signal in signals.forever() {
                if signal != SIGHUP {
                    std::process::exit(130);
                }
                front.reopen_log();
            }
        });
        let is_drained = front.drain(limit, successor);
        // Ends the thread's loop; without it the scope would wait for one more signal.
        handle.close();
        let _ = second.join();
        is_drained
    })
}
