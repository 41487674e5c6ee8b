//! How an exchange comes by a connection: an idle one, or a new one to one address after the other, through an egress
//! proxy and with TLS where its URL asks for that. RFC 9110 §4.3, §7.3, §9.3.6.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use mio::net::TcpStream;
use mio::{Interest, Token};
use socket2::{SockRef, TcpKeepalive};

use super::talking::has_more;
use super::{Exchanges, OriginReadiness, Owner};
use crate::message::head::read_response;
use crate::message::target::Server;
use crate::origin::evented::Consumer;
use crate::origin::evented::dial::{DialStep, Race, is_out_of_descriptors};
use crate::origin::evented::exchange::{Exchange, ExchangeStage, OriginConnection, Racer};
use crate::origin::evented::protocol::ResponseReader;
use crate::origin::evented::stream::Stream;
use crate::origin::outgoing::{Route, connect_request};
use crate::origin::resolver::{NameAnswer, Renewal};
use crate::origin::{CONTINUE_MAX, HEAD_BYTES_MAX, KEEPALIVE, OriginError};

impl<C: Consumer> Exchanges<C> {
    /// Takes an idle connection, or asks for the addresses of the server; `false` if they have to be waited for.
    pub(super) fn name(
        &mut self,
        slot: usize,
        exchange: &mut Exchange<C>,
    ) -> Result<bool, OriginError> {
        exchange.deadline = Some(exchange.connect_by);
        if !exchange.needs_fresh
            && let Some(connection) = self.take_idle(&exchange.request.to.route, exchange.client)
        {
            *self.owners.at_mut(connection.token).expect("an idle connection has a token") =
                Owner::Exchange(slot);
            exchange.connection = Some(connection);
            exchange.begin_sending(self.now, CONTINUE_MAX);
            return Ok(true);
        }
        let Server { host, port, .. } = &exchange.request.to.route.to;
        let waker = self.waker(slot, exchange.number);
        match self.settings.names.ask(host, *port, waker) {
            NameAnswer::Known(addresses) => self.begin_race(exchange, addresses),
            NameAnswer::Asked(asked) => {
                exchange.stage = ExchangeStage::Asking(asked);
                Ok(true)
            }
        }
    }

    /// An idle connection on which nothing has come.
    fn take_idle(&mut self, route: &Arc<Route>, client: Option<u64>) -> Option<OriginConnection> {
        loop {
            let mut connection = self.idle.take(route, client, self.now)?;
            // What has come since the round began is not known, be its readiness handled already or not. The end of a connection costs a request that cannot be repeated, and bytes that nobody has asked for would be
            // taken for the response.
            let has_more =
                self.lend_buffers(|_, buffers| has_more(&mut connection, &mut buffers.scratch));
            if !has_more {
                return Some(connection);
            }
            self.close(connection);
        }
    }

    /// Looks whether the addresses of the server have come; `false` if they have to be waited for.
    pub(super) fn await_name(&mut self, exchange: &mut Exchange<C>) -> Result<bool, OriginError> {
        let is_late = exchange.connect_by <= self.now;
        exchange.deadline = Some(exchange.connect_by);
        match std::mem::replace(&mut exchange.stage, ExchangeStage::Naming) {
            ExchangeStage::Asking(asked) => match asked.poll() {
                NameAnswer::Known(addresses) => self.begin_race(exchange, addresses),
                NameAnswer::Asked(asked) => {
                    let limit = self.settings.connect_timeout;
                    // Half of the limit is left for the addresses that were good last.
                    let half = exchange.connect_by.checked_sub(limit / 2).unwrap_or(self.now);
                    if half <= self.now {
                        let Server { host, port, .. } = &exchange.request.to.route.to;
                        let last_good = self.settings.names.last_good(host, *port);
                        if !last_good.is_empty() {
                            return self.begin_race(exchange, last_good);
                        }
                        if is_late {
                            let origin = exchange.request.to.shown.clone();
                            return Err(OriginError::ConnectTimeout { origin, limit });
                        }
                    } else {
                        exchange.deadline = Some(half);
                    }
                    exchange.stage = ExchangeStage::Asking(asked);
                    Ok(false)
                }
            },
            ExchangeStage::Renewing(renewed, error) => match renewed.poll() {
                Renewal::Moved(addresses) => self.begin_race(exchange, addresses),
                Renewal::Asked(renewed) if !is_late => {
                    exchange.stage = ExchangeStage::Renewing(renewed, error);
                    Ok(false)
                }
                Renewal::Unchanged | Renewal::Asked(_) => Err(error),
            },
            stage => {
                exchange.stage = stage;
                Ok(true)
            }
        }
    }

    /// Begins to connect to these addresses of the server.
    fn begin_race(
        &self,
        exchange: &mut Exchange<C>,
        addresses: Vec<SocketAddr>,
    ) -> Result<bool, OriginError> {
        if addresses.is_empty() {
            return Err(OriginError::Resolve { origin: exchange.request.to.shown.clone() });
        }
        exchange.stage = ExchangeStage::Racing(Race::new(addresses, self.now), Vec::new());
        Ok(true)
    }

    /// Connects to one address after the other; `true` when one has answered.
    pub(super) fn race(
        &mut self,
        slot: usize,
        exchange: &mut Exchange<C>,
    ) -> Result<bool, OriginError> {
        let now = self.now;
        let ExchangeStage::Racing(race, racers) = &mut exchange.stage else { return Ok(true) };
        let mut at = 0;
        while at < racers.len() {
            match connected(&racers[at].socket) {
                Ok(true) => {
                    let racer = racers.swap_remove(at);
                    for racer in racers.drain(..) {
                        self.owners.leave(racer.token);
                    }
                    let connection = new_connection(racer, &exchange.request.to.route, now);
                    exchange.connection = Some(connection);
                    return self.connected(exchange).map(|()| true);
                }
                Ok(false) => at += 1,
                Err(error) => {
                    self.owners.leave(racers.swap_remove(at).token);
                    race.failed(error, now);
                }
            }
        }
        loop {
            match race.next(now) {
                DialStep::Connect(address) => match self.dial(slot, address) {
                    Ok(racer) => racers.push(racer),
                    Err(error) => race.failed(error, now),
                },
                DialStep::Wait(_) if exchange.connect_by <= now => {
                    let limit = self.settings.connect_timeout;
                    let origin = exchange.request.to.shown.clone();
                    let error = OriginError::ConnectTimeout { origin, limit };
                    return self.unreachable(slot, exchange, error);
                }
                DialStep::Wait(until) => {
                    let until = until.map_or(exchange.connect_by, |at| at.min(exchange.connect_by));
                    exchange.deadline = Some(until);
                    return Ok(false);
                }
                DialStep::Failed(source) => {
                    let origin = exchange.request.to.shown.clone();
                    let error = OriginError::Connect { origin, source };
                    return self.unreachable(slot, exchange, error);
                }
            }
        }
    }

    /// Begins to connect to an address. Where there are no descriptors, idle connections are given up for it.
    fn dial(&mut self, slot: usize, address: SocketAddr) -> io::Result<Racer> {
        let mut socket = match TcpStream::connect(address) {
            Err(error) if is_out_of_descriptors(&error) && self.close_idle() => {
                TcpStream::connect(address)?
            }
            connected => connected?,
        };
        let token = self.owners.insert(Owner::Exchange(slot));
        let interest = Interest::READABLE | Interest::WRITABLE;
        let registered = Token(self.first_token + token);
        if let Err(error) = self.registry.register(&mut socket, registered, interest) {
            self.owners.leave(token);
            return Err(error);
        }
        Ok(Racer { token, socket, readiness: OriginReadiness::default() })
    }

    /// Closes all idle connections; `false` if there are none.
    fn close_idle(&mut self) -> bool {
        let all = self.idle.take_all();
        let is_some = !all.is_empty();
        for connection in all {
            self.close(connection);
        }
        is_some
    }

    /// No address has answered: has the name moved? If not, the exchange fails with `error`.
    fn unreachable(
        &mut self,
        slot: usize,
        exchange: &mut Exchange<C>,
        error: OriginError,
    ) -> Result<bool, OriginError> {
        let ExchangeStage::Racing(race, _) = &mut exchange.stage else { return Err(error) };
        if std::mem::replace(&mut exchange.renewed, true) {
            return Err(error);
        }
        let tried = std::mem::take(&mut race.addresses);
        let Server { host, port, .. } = &exchange.request.to.route.to;
        let waker = self.waker(slot, exchange.number);
        let renewal = self.settings.names.renew(host, *port, &tried, waker);
        // What is still being connected to is given up; what is tried in its place has as much time as it had.
        self.disconnect(exchange);
        exchange.connect_by = self.now + self.settings.connect_timeout;
        match renewal {
            Renewal::Unchanged => Err(error),
            Renewal::Moved(addresses) => self.begin_race(exchange, addresses),
            Renewal::Asked(renewed) => {
                exchange.stage = ExchangeStage::Renewing(renewed, error);
                Ok(true)
            }
        }
    }

    /// TCP stands.
    fn connected(&mut self, exchange: &mut Exchange<C>) -> Result<(), OriginError> {
        let route = Arc::clone(&exchange.request.to.route);
        exchange.deadline = Some(exchange.connect_by);
        if route.to.secure {
            return self.begin_securing(exchange, &route.to.host);
        }
        if route.through.is_some() {
            exchange.stage = ExchangeStage::Greeting(Vec::new());
        } else {
            exchange.begin_sending(self.now, CONTINUE_MAX);
        }
        Ok(())
    }

    /// Begins TLS with `host` on the connection of an exchange.
    fn begin_securing(
        &mut self,
        exchange: &mut Exchange<C>,
        host: &str,
    ) -> Result<(), OriginError> {
        let session = self.settings.tls.connection(host).map_err(|error| OriginError::Tls {
            origin: exchange.request.to.shown.clone(),
            what: error.to_string(),
        })?;
        exchange.connection = exchange.connection.take().map(|one| one.secured(session));
        exchange.stage = ExchangeStage::Securing;
        Ok(())
    }

    /// Goes on with the handshake; `true` when it is done.
    pub(super) fn secure(&mut self, exchange: &mut Exchange<C>) -> Result<bool, OriginError> {
        let connection = exchange.connection.as_mut().expect("TLS is over a connection");
        let is_done = self.lend_buffers(|_, buffers| {
            let done = connection.stream.advance(&mut buffers.scratch)?;
            connection.writable |= done;
            io::Result::Ok(done)
        });
        match is_done {
            Ok(false) => Ok(false),
            Ok(true) => {
                // With an egress proxy between, the first session is the proxy's.
                let through = &exchange.request.to.route.through;
                let is_to_proxy = through.is_some() && !connection.is_through;
                connection.readable = true;
                if is_to_proxy {
                    exchange.stage = ExchangeStage::Greeting(Vec::new());
                } else {
                    exchange.begin_sending(self.now, CONTINUE_MAX);
                }
                Ok(true)
            }
            Err(error) => {
                let (origin, what) = (exchange.request.to.shown.clone(), error.to_string());
                Err(match error.kind() {
                    io::ErrorKind::InvalidData => OriginError::Tls { origin, what },
                    _ => OriginError::Closed { origin, what },
                })
            }
        }
    }

    /// Asks an egress proxy to connect; `true` when it has.
    pub(super) fn greet(&mut self, exchange: &mut Exchange<C>) -> Result<bool, OriginError> {
        let origin = exchange.request.to.shown.clone();
        let refused = |what: String| OriginError::Connect {
            origin: origin.clone(),
            source: io::Error::other(format!("the proxy that leads out {what}")),
        };
        let to = Arc::clone(&exchange.request.to);
        let through = to.route.through.as_ref().expect("there is a proxy between");
        let ExchangeStage::Greeting(answer) = &mut exchange.stage else { return Ok(true) };
        let connection = exchange.connection.as_mut().expect("the proxy is connected to");
        if !connection.is_greeted {
            let request = connect_request(through, to.proxy_authorization.as_ref());
            // It is short, and the first that is sent: the system takes it as a whole.
            match connection.stream.write(&[io::IoSlice::new(&request)]) {
                Ok(count) if count == request.len() => connection.is_greeted = true,
                Ok(_) => return Err(refused("takes nothing".to_string())),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(refused(format!("has gone: {error}"))),
            }
        }
        let head = self.lend_buffers(|_, buffers| {
            loop {
                // Byte by byte: what comes behind the head is the origin server's, and not read here.
                match connection.stream.read(&mut buffers.read[..1], &mut buffers.scratch) {
                    Ok(0) => return Err("gave no answer".to_string()),
                    Ok(_) => answer.push(buffers.read[0]),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                    Err(error) => return Err(format!("gave no answer: {error}")),
                }
                if answer.len() > HEAD_BYTES_MAX {
                    return Err("gave no valid answer".to_string());
                }
                if answer.ends_with(b"\r\n\r\n") {
                    return Ok(Some(std::mem::take(answer)));
                }
            }
        });
        let Some(head) = head.map_err(&refused)? else { return Ok(false) };
        match read_response(&head) {
            Ok(Some(head)) if head.status.is_success() => {}
            Ok(Some(head)) => {
                return Err(refused(format!("refused with {}", head.status.as_u16())));
            }
            _ => return Err(refused("gave no valid answer".to_string())),
        }
        connection.is_through = true;
        if through.secure {
            return self.begin_securing(exchange, &through.host).map(|()| true);
        }
        exchange.begin_sending(self.now, CONTINUE_MAX);
        Ok(true)
    }
}

/// Does a connection stand? `false` if that is not known yet.
fn connected(socket: &TcpStream) -> io::Result<bool> {
    if let Some(error) = socket.take_error()? {
        return Err(error);
    }
    match socket.peer_addr() {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
        Err(error) => Err(error),
    }
}

fn new_connection(racer: Racer, route: &Arc<Route>, now: Instant) -> OriginConnection {
    let Racer { token, socket, readiness } = racer;
    // A request goes out in one piece; a response may be silent for hours, and nothing but this finds out that the
    // other side is gone. Without them the connection is slower, and works.
    let _ = socket.set_nodelay(true);
    let _ = SockRef::from(&socket).set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE));
    OriginConnection {
        token,
        stream: Stream::Plain(socket),
        reader: ResponseReader::default(),
        route: Arc::clone(route),
        readable: readiness.readable,
        writable: true,
        ending: readiness.ended,
        is_greeted: false,
        is_through: false,
        opened: now,
        idle_since: now,
        client: None,
        requests: 0,
    }
}
