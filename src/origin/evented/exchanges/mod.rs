//! The exchanges of one loop: each has its turns, and none waits. RFC 9110 §10.1.1, RFC 9112 §9.
//!
//! A turn goes from stage to stage as far as it can: the gate admits the request, a name is looked up, a connection
//! found or made (`connecting.rs`), the request sent, the response read (`talking.rs`). What ends a turn is a call that
//! would block; readiness, a message or the clock brings the next one.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::Registry;

use crate::message::request::Framing;
use crate::origin::egress::Egress;
use crate::origin::evented::exchange::{Exchange, ExchangeStage, OriginConnection};
use crate::origin::evented::idle::IdleConnections;
use crate::origin::evented::slots::ReusedSlots;
use crate::origin::evented::{Consumer, ExchangeKey, WakeExchange, Wish};
use crate::origin::gate::{Admission, Gate, GateRequest};
use crate::origin::outgoing::{KnownServers, WireRequest};
use crate::origin::resolver::Names;
use crate::origin::trust::TlsSettings;
use crate::origin::{OriginError, RequestHead};

mod connecting;
mod talking;

/// How much is read at a time.
const READ_BYTES: usize = 128 * 1024;
/// What is encrypted is read into this: as much for each of two sessions, one in the other.
const SCRATCH_BYTES: usize = 32 * 1024;
/// How often idle connections are looked through.
const IDLE_CHECK: Duration = Duration::from_secs(1);

/// How the origin server is reached: what all loops share.
pub struct EventedSettings {
    /// `--connect-timeout`: to resolve the name, to connect, and for TLS.
    pub connect_timeout: Duration,
    /// `--origin-timeout`: between two bytes.
    pub origin_timeout: Duration,
    /// `--first-byte-timeout`: from the request to the first byte of an answer.
    pub first_byte_timeout: Duration,
    /// Which requests may be sent.
    pub gate: Gate,
    /// How names are looked up.
    pub names: Names,
    /// The egress proxies.
    pub egress: Egress,
    /// With what TLS is made.
    pub(crate) tls: TlsSettings,
    /// The most idle connections of one loop.
    pub idle_connections_max: usize,
}

/// What an exchange begins with.
#[derive(Clone, Copy)]
pub struct NewExchange<'a> {
    /// The head of the request.
    pub head: &'a RequestHead,
    /// How its content is delimited.
    pub content: Framing,
    /// It asks to go over to another protocol.
    pub upgrades: bool,
    /// The client's connection, by a number that no other connection of the loop has; `None` for requests of the
    /// program's own.
    pub client: Option<u64>,
}

impl<'a> NewExchange<'a> {
    /// A request without content.
    pub fn without_content(head: &'a RequestHead, client: Option<u64>) -> Self {
        Self { head, content: Framing::None, upgrades: false, client }
    }
}

/// The exchanges of a loop with the origin server.
pub struct Exchanges<C> {
    settings: Arc<EventedSettings>,
    registry: Registry,
    /// The token of the first connection; those of the others follow.
    first_token: usize,
    wake: WakeExchange,
    /// Boxed: each is taken out of its slot and put back for each of its turns.
    under_way: ReusedSlots<Box<Exchange<C>>>,
    /// Whose each connection is, by its token.
    owners: ReusedSlots<Owner>,
    idle: IdleConnections,
    servers: KnownServers,
    /// The slots of exchanges that had more to do when their turn was over.
    unfinished: Vec<usize>,
    /// Empty between turns.
    buffers: Buffers,
    now: Instant,
    /// No exchange has an earlier deadline, and idle connections need not be looked at before.
    earliest: Option<Instant>,
    next_number: u64,
}

/// Whose a connection is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Owner {
    /// Of the exchange in this slot.
    Exchange(usize),
    /// It is idle.
    Nobody,
}

/// What the exchange that has its turn reads into.
#[derive(Default)]
struct Buffers {
    read: Vec<u8>,
    scratch: Vec<u8>,
    content: Vec<u8>,
}

/// What a socket is ready for.
#[derive(Clone, Copy, Debug, Default)]
pub struct OriginReadiness {
    /// There may be bytes.
    pub readable: bool,
    /// Bytes may be taken.
    pub writable: bool,
    /// The other side has ended, or the connection is gone.
    pub ended: bool,
}

/// What a turn came to.
enum TurnOutcome {
    /// Something has to happen first.
    Wait,
    /// There is more to do, after others have had their turn.
    Again,
    /// The exchange is over.
    Over,
    /// In its place, this is asked for.
    Ask(Box<RequestHead>),
}

impl From<Wish> for TurnOutcome {
    /// What becomes of an exchange that has ended.
    fn from(wish: Wish) -> Self {
        match wish {
            Wish::Ask(head) => Self::Ask(head),
            Wish::GoOn | Wish::Over => Self::Over,
        }
    }
}

impl<C: Consumer> Exchanges<C> {
    /// No exchanges yet. Their sockets are registered with tokens from `first_token` on; `wake` is called, from any
    /// thread, when [`Exchanges::wake`] is to be.
    pub fn new(
        settings: Arc<EventedSettings>,
        registry: Registry,
        first_token: usize,
        wake: WakeExchange,
    ) -> Self {
        let idle = IdleConnections::new(settings.idle_connections_max);
        Self {
            settings,
            registry,
            first_token,
            wake,
            under_way: ReusedSlots::default(),
            owners: ReusedSlots::default(),
            idle,
            servers: KnownServers::default(),
            unfinished: Vec::new(),
            buffers: Buffers::default(),
            now: Instant::now(),
            earliest: None,
            next_number: 0,
        }
    }

    /// How many exchanges are under way.
    pub fn count(&self) -> usize {
        self.under_way.used()
    }

    /// How many connections there are, idle ones among them.
    pub fn connections(&self) -> usize {
        self.owners.used()
    }

    /// The loop has woken up at this moment.
    pub fn woke(&mut self, now: Instant) {
        self.now = now;
    }

    /// Begins an exchange.
    pub fn begin(&mut self, consumer: C, new: NewExchange<'_>) {
        if let Some(slot) = self.enter(consumer, new) {
            self.give_turn(slot);
        }
    }

    /// Gives an exchange a slot; `None` if it is over before it has begun.
    fn enter(
        &mut self,
        mut consumer: C,
        NewExchange { head, content, upgrades, client }: NewExchange<'_>,
    ) -> Option<usize> {
        self.next_number += 1;
        let number = self.next_number;
        let (servers, egress) = (&mut self.servers, &self.settings.egress);
        let request = match WireRequest::new(head.into(), content, upgrades, servers, egress) {
            Ok(request) => request,
            Err(error) => {
                // Nothing that could be asked in its place would fare better.
                consumer.fail(error);
                return None;
            }
        };
        let exchange = Exchange::new((number, client), consumer, request, self.now);
        let slot = self.under_way.insert(Box::new(exchange));
        let waker = self.waker(slot, number);
        let exchange = self.under_way.at_mut(slot).expect("it has just been put there");
        exchange.consumer.begun(ExchangeKey { slot, number }, &self.wake);
        let RequestHead { method, url, fields, waits, .. } = head;
        let server = &exchange.request.to.server;
        let admission = self.settings.gate.admit(
            GateRequest { method, server, url, fields, waits: *waits },
            self.now,
            waker,
        );
        exchange.stage = ExchangeStage::Admitting(Some(admission));
        Some(slot)
    }

    /// Notes what a socket is ready for, and gives its exchange a turn.
    pub fn handle_readiness(&mut self, token: usize, readiness: OriginReadiness) {
        let token = token - self.first_token;
        match self.owners.at_mut(token).copied() {
            Some(Owner::Exchange(slot)) => {
                let Some(exchange) = self.under_way.at_mut(slot) else { return };
                if let Some(connection) = &mut exchange.connection {
                    connection.readable |= readiness.readable || readiness.ended;
                    connection.writable |= readiness.writable;
                    connection.ending |= readiness.ended;
                } else if let ExchangeStage::Racing(_, racers) = &mut exchange.stage
                    && let Some(racer) = racers.iter_mut().find(|racer| racer.token == token)
                {
                    racer.readiness.readable |= readiness.readable || readiness.ended;
                    racer.readiness.ended |= readiness.ended;
                }
                self.give_turn(slot);
            }
            Some(Owner::Nobody) => self.check_idle(token, readiness),
            // It was closed by an earlier turn of this round.
            None => {}
        }
    }

    /// Something has come over an idle connection, or it has ended.
    fn check_idle(&mut self, token: usize, readiness: OriginReadiness) {
        if !readiness.readable && !readiness.ended {
            return;
        }
        let Some(mut connection) = self.idle.take_token(token) else { return };
        self.lend_buffers(|_, buffers| {
            // TLS has messages of its own (session tickets); any byte of HTTP is one that nobody has asked for.
            let read = connection.stream.read(&mut buffers.read[..1], &mut buffers.scratch);
            connection.ending |=
                !matches!(&read, Err(error) if error.kind() == io::ErrorKind::WouldBlock);
        });
        connection.ending |= readiness.ended;
        if connection.ending {
            return self.close(connection);
        }
        if let Some(connection) = self.idle.keep(connection, self.now) {
            self.close(connection);
        }
    }

    /// A client's connection is closed: what is authenticated for it is of no use to anybody.
    pub fn forget_client(&mut self, client: u64) {
        if let Some(connection) = self.idle.take_client(client) {
            self.close(connection);
        }
        for slot in 0..self.under_way.len() {
            if let Some(exchange) = self.under_way.at_mut(slot)
                && exchange.client == Some(client)
            {
                exchange.client = None;
            }
        }
    }

    /// An exchange may go on.
    pub fn wake(&mut self, key: ExchangeKey) {
        let Some(exchange) = self.under_way.at_mut(key.slot) else { return };
        // The slot may have another exchange by now.
        if exchange.number != key.number {
            return;
        }
        if !exchange.consumer.is_wanted() {
            return self.abandon(key.slot);
        }
        // A client that takes at once what is read for it would keep all others waiting until the end of its body: an
        // exchange that has waited for it goes on in the next round.
        if exchange.is_blocked && !exchange.is_unfinished {
            exchange.is_unfinished = true;
            return self.unfinished.push(key.slot);
        }
        self.give_turn(key.slot);
    }

    /// Are there exchanges with more to do?
    pub fn has_unfinished(&self) -> bool {
        !self.unfinished.is_empty()
    }

    /// Gives a turn to those that had more to do, and to those whose deadline has come. To be called once a round,
    /// after all readiness was handled.
    pub fn go_on(&mut self) {
        for slot in self.take_unfinished() {
            self.go_on_with(slot);
        }
        self.end_round();
    }

    /// The slots of exchanges that have more to do: each is to be given one more turn, by [`Exchanges::go_on_with`].
    pub fn take_unfinished(&mut self) -> Vec<usize> {
        std::mem::take(&mut self.unfinished)
    }

    /// Gives an exchange the turn that it is listed for, if it is still there.
    pub fn go_on_with(&mut self, slot: usize) {
        if let Some(exchange) = self.under_way.at_mut(slot)
            && std::mem::take(&mut exchange.is_unfinished)
        {
            self.give_turn(slot);
        }
    }

    /// Gives a turn to those whose deadline has come, after all others have had theirs.
    pub fn end_round(&mut self) {
        if self.earliest.is_some_and(|earliest| earliest <= self.now) {
            self.expire();
        }
        self.under_way.reuse();
        self.owners.reuse();
    }

    /// When [`Exchanges::go_on`] is to be called although nothing has happened.
    pub fn deadline(&self) -> Option<Instant> {
        self.earliest
    }

    fn expire(&mut self) {
        self.earliest = None;
        for connection in self.idle.take_old(self.now) {
            self.close(connection);
        }
        for slot in 0..self.under_way.len() {
            let Some(exchange) = self.under_way.at_mut(slot) else { continue };
            match exchange.deadline {
                Some(deadline) if deadline <= self.now => self.late(slot),
                Some(deadline) => self.remember(deadline),
                None => {}
            }
        }
        if self.idle.count() > 0 {
            self.remember(self.now + IDLE_CHECK);
        }
    }

    fn remember(&mut self, deadline: Instant) {
        self.earliest = Some(self.earliest.map_or(deadline, |earliest| earliest.min(deadline)));
    }

    /// Nobody wants the exchange any more.
    fn abandon(&mut self, slot: usize) {
        let Some(mut exchange) = self.under_way.lend(slot) else { return };
        let is_sent = exchange.head_sent > 0;
        self.disconnect(&mut exchange);
        self.under_way.leave(slot);
        // Those who waited behind it may go before anything else is done about it.
        drop(exchange.permit.take());
        exchange.consumer.abandoned(is_sent);
    }

    /// The deadline of an exchange has come.
    fn late(&mut self, slot: usize) {
        let Some(mut exchange) = self.under_way.lend(slot) else { return };
        exchange.deadline = None;
        if let Some(error) = self.lateness(&exchange) {
            let turn = self.fail_with(&mut exchange, error);
            self.conclude(slot, exchange, turn);
        } else {
            // A 100 that does not come is not waited for any longer.
            if let ExchangeStage::Talking = exchange.stage {
                exchange.permit_content();
            }
            self.under_way.put_back(slot, exchange);
            self.give_turn(slot);
        }
    }

    /// Gives an exchange a turn, unless it is listed for one.
    fn give_turn(&mut self, slot: usize) {
        let Some(mut exchange) = self.under_way.lend(slot) else { return };
        if exchange.is_unfinished {
            return self.under_way.put_back(slot, exchange);
        }
        // A bug that one origin server's bytes reach costs this exchange, not the loop's others.
        let turn = catch_unwind(AssertUnwindSafe(|| self.turn(slot, &mut exchange)));
        let turn = turn.unwrap_or_else(|_| {
            log::error!("an event loop panicked; this cost one exchange");
            TurnOutcome::Over
        });
        self.conclude(slot, exchange, turn);
    }

    /// Does what a turn leaves to be done.
    fn conclude(&mut self, slot: usize, mut exchange: Box<Exchange<C>>, turn: TurnOutcome) {
        match turn {
            TurnOutcome::Wait => {
                if let Some(deadline) = exchange.deadline {
                    self.remember(deadline);
                }
                self.under_way.put_back(slot, exchange);
            }
            TurnOutcome::Again => {
                exchange.is_unfinished = true;
                self.unfinished.push(slot);
                self.under_way.put_back(slot, exchange);
            }
            TurnOutcome::Over => {
                self.disconnect(&mut exchange);
                self.under_way.leave(slot);
            }
            TurnOutcome::Ask(head) => {
                self.disconnect(&mut exchange);
                self.under_way.leave(slot);
                // What is asked for in its place has to be admitted itself.
                drop(exchange.permit.take());
                // Its content, if it had any, is sent or gone.
                let new = NewExchange::without_content(&head, exchange.client);
                self.begin(exchange.consumer, new);
            }
        }
    }

    /// Closes what an exchange has of connections.
    fn disconnect(&mut self, exchange: &mut Exchange<C>) {
        if let ExchangeStage::Racing(_, racers) = &mut exchange.stage {
            for racer in racers.drain(..) {
                self.owners.leave(racer.token);
            }
        }
        if let Some(connection) = exchange.connection.take() {
            self.close(connection);
        }
    }

    fn close(&mut self, mut connection: OriginConnection) {
        // Politely: the other side's TLS would else take it for an attack. Nothing is waited for.
        if !connection.ending {
            connection.stream.end();
        }
        self.owners.leave(connection.token);
    }

    /// Runs `work` with the buffers of this loop.
    fn lend_buffers<R>(&mut self, work: impl FnOnce(&mut Self, &mut Buffers) -> R) -> R {
        let mut buffers = std::mem::take(&mut self.buffers);
        if buffers.read.is_empty() {
            buffers.read = vec![0; READ_BYTES];
            buffers.scratch = vec![0; SCRATCH_BYTES];
        }
        let result = work(self, &mut buffers);
        self.buffers = buffers;
        result
    }

    /// Goes on as far as nothing has to be waited for.
    fn turn(&mut self, slot: usize, exchange: &mut Exchange<C>) -> TurnOutcome {
        loop {
            let stepped = match &mut exchange.stage {
                ExchangeStage::Admitting(_) => self.admit(exchange),
                ExchangeStage::Naming => self.name(slot, exchange),
                ExchangeStage::Asking(_) | ExchangeStage::Renewing(..) => self.await_name(exchange),
                ExchangeStage::Racing(..) => self.race(slot, exchange),
                ExchangeStage::Greeting(_) => self.greet(exchange),
                ExchangeStage::Securing => self.secure(exchange),
                ExchangeStage::Talking => {
                    return self.lend_buffers(|this, buffers| this.talk(exchange, buffers));
                }
            };
            match stepped {
                Ok(true) => {}
                Ok(false) => return TurnOutcome::Wait,
                Err(error) => return self.fail_with(exchange, error),
            }
        }
    }

    /// Asks the gate again, if it has not decided; `false` if the request has to wait.
    fn admit(&self, exchange: &mut Exchange<C>) -> Result<bool, OriginError> {
        let ExchangeStage::Admitting(admission) = &mut exchange.stage else { return Ok(true) };
        let admission = match admission.take().expect("it is put back where it still waits") {
            // Also right after it was asked: one that polls too early waits on.
            Admission::Waits(waiting) => waiting.poll(self.now),
            admission => admission,
        };
        match admission {
            Admission::Admitted(permit) => {
                exchange.permit = Some(permit);
                exchange.connect_by = self.now + self.settings.connect_timeout;
                exchange.stage = ExchangeStage::Naming;
                Ok(true)
            }
            Admission::Refused(error) => Err(error),
            Admission::Waits(waiting) => {
                exchange.deadline = Some(waiting.polls_at());
                exchange.stage = ExchangeStage::Admitting(Some(Admission::Waits(waiting)));
                Ok(false)
            }
        }
    }

    fn waker(&self, slot: usize, number: u64) -> impl Fn() + Send + Sync + 'static {
        let (wake, key) = (Arc::clone(&self.wake), ExchangeKey { slot, number });
        move || wake(key)
    }
}
