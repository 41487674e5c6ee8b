//! The request goes out, and the response comes in. RFC 9112 §6, §9.

use std::io;

use http::StatusCode;

use super::{
    Buffers, EventedSettings, Exchanges, IDLE_CHECK, Owner, READ_BYTES, SCRATCH_BYTES, TurnOutcome,
};
use crate::message::fields::Fields;
use crate::origin::evented::exchange::{ContentState, Exchange, ExchangeStage, OriginConnection};
use crate::origin::evented::piping::pipe_content;
use crate::origin::evented::protocol::ResponsePart;
use crate::origin::evented::{Consumer, Space, Wish};
use crate::origin::outgoing::refused_by_proxy;
use crate::origin::{OriginError, OriginHead};

/// How much is read at a time while a head is awaited: what of the content comes with it has to be kept, whatever
/// space there is.
const HEAD_READ_BYTES: usize = 16 * 1024;
/// How often one exchange reads before others have their turn.
const READS_PER_TURN: usize = 16;

impl<C: Consumer> Exchanges<C> {
    /// Sends the request, and reads the response.
    pub(super) fn talk(
        &mut self,
        exchange: &mut Exchange<C>,
        buffers: &mut Buffers,
    ) -> TurnOutcome {
        let mut has_moved = false;
        for _ in 0..READS_PER_TURN {
            match self.send(exchange, &mut buffers.content) {
                Ok(moves) => has_moved |= moves,
                Err(outcome) => return outcome,
            }
            let Some(connection) = &mut exchange.connection else { return TurnOutcome::Over };
            if !connection.readable {
                return self.read_later(exchange, has_moved);
            }
            let most = if connection.reader.awaits_head() {
                HEAD_READ_BYTES
            } else {
                // The origin server's time begins when it may send again.
                has_moved |= exchange.is_blocked;
                match self.space(exchange) {
                    Ok(most) => most,
                    Err(outcome) => return outcome,
                }
            };
            match pipe_content(exchange, most) {
                None => {}
                Some(Ok(Wish::GoOn)) => {
                    has_moved = true;
                    continue;
                }
                Some(Ok(wish)) => return wish.into(),
                Some(Err(error)) => match self.unreadable(exchange, error) {
                    None => continue,
                    Some(turn) => return turn,
                },
            }
            let Some(connection) = &mut exchange.connection else { return TurnOutcome::Over };
            match connection.stream.read(&mut buffers.read[..most], &mut buffers.scratch) {
                Ok(0) => return self.ended(exchange),
                Ok(count) => {
                    has_moved = true;
                    let is_drained = connection.stream.is_drained(count, most);
                    connection.readable = !is_drained || connection.ending;
                    if let Some(turn) = self.feed(exchange, &buffers.read[..count]) {
                        return turn;
                    }
                }
                Err(error) => {
                    if let Some(turn) = self.unreadable(exchange, error) {
                        return turn;
                    }
                }
            }
        }
        // Bytes have moved since it was set. Left there, it would end the exchange before its next turn.
        exchange.deadline = None;
        TurnOutcome::Again
    }

    /// Nothing has come that is to be read.
    fn read_later(&self, exchange: &mut Exchange<C>, has_moved: bool) -> TurnOutcome {
        let was_blocked = exchange.is_blocked;
        // What was read last may have to be asked about again, whether or not the origin server goes on.
        if (was_blocked || exchange.consumer.keeps_back())
            && let Err(outcome) = self.space(exchange)
        {
            return outcome;
        }
        self.wait(exchange, has_moved || was_blocked)
    }

    /// How much content may be read; an outcome is for content that may not.
    fn space(&self, exchange: &mut Exchange<C>) -> Result<usize, TurnOutcome> {
        match exchange.consumer.space(self.now) {
            Space::Bytes(most) => {
                exchange.is_blocked = false;
                Ok(most.min(READ_BYTES))
            }
            Space::None(until) => {
                (exchange.deadline, exchange.is_blocked) = (Some(until), true);
                Err(TurnOutcome::Wait)
            }
            Space::Unwanted => Err(TurnOutcome::Over),
        }
    }

    /// Nothing could be read; `None` if something may come later.
    fn unreadable(&mut self, exchange: &mut Exchange<C>, error: io::Error) -> Option<TurnOutcome> {
        match error.kind() {
            io::ErrorKind::WouldBlock => {
                exchange.connection.as_mut()?.readable = false;
                None
            }
            io::ErrorKind::Interrupted => None,
            _ => Some(self.lost(exchange, error)),
        }
    }

    /// Sends what there is; did anything move? An outcome is the end of the exchange.
    fn send(
        &mut self,
        exchange: &mut Exchange<C>,
        scratch: &mut Vec<u8>,
    ) -> Result<bool, TurnOutcome> {
        let mut has_moved = false;
        if exchange.broken.is_none() {
            match exchange.send(scratch) {
                Ok(Ok(sent)) => has_moved = sent > 0,
                Ok(Err(error)) => {
                    return Err(self.fail_with(exchange, OriginError::Content(error)));
                }
                Err(error) => {
                    // An answer may have come before the end (RFC 9112 §9.5): it is read.
                    exchange.broken = Some(error);
                    exchange.drop_content();
                    if let Some(connection) = &mut exchange.connection {
                        connection.readable = true;
                    }
                }
            }
        }
        if exchange.is_tunnel && exchange.is_sent() {
            // The client has ended its side, and has been told everything so far.
            self.disconnect(exchange);
            return Err(exchange.pass_last(&[]).into());
        }
        Ok(has_moved)
    }

    /// Nothing can be done before something comes: sets the deadline.
    fn wait(&self, exchange: &mut Exchange<C>, has_moved: bool) -> TurnOutcome {
        // Only bytes that move give more time; a turn for nothing does not.
        if has_moved || exchange.deadline.is_none() {
            exchange.deadline = match exchange.content {
                ContentState::Awaits100(until) if !exchange.has_output() => Some(until),
                // The client's own timeouts hold for what it sends.
                ContentState::Starved if !exchange.has_output() && !exchange.is_answered => None,
                // A chat may be silent for hours.
                _ if exchange.is_tunnel && !exchange.has_output() => None,
                _ if exchange.is_answered || exchange.has_output() => {
                    Some(self.now + self.settings.origin_timeout)
                }
                _ => Some(self.now + self.settings.first_byte_timeout),
            };
        }
        TurnOutcome::Wait
    }

    /// The response goes on with these bytes; `None` if more are needed.
    fn feed(&mut self, exchange: &mut Exchange<C>, bytes: &[u8]) -> Option<TurnOutcome> {
        let mut rest = bytes;
        // Held back until it is known whether it is the last.
        let mut pending: &[u8] = &[];
        loop {
            let connection = exchange.connection.as_mut()?;
            let (used, found) = match connection.reader.next(rest) {
                Ok(found) => found,
                Err(what) => {
                    let passed = Self::pass_piece(exchange, pending);
                    return passed.or_else(|| Some(self.violated(exchange, what)));
                }
            };
            rest = &rest[used..];
            match found {
                ResponsePart::Nothing => return Self::pass_piece(exchange, pending),
                ResponsePart::Continue => exchange.permit_content(),
                ResponsePart::Interim(status, fields) => exchange.consumer.interim(status, fields),
                ResponsePart::Head(head) => {
                    if let Some(turn) = self.take_head(exchange, *head, rest) {
                        return Some(turn);
                    }
                }
                ResponsePart::Switched(fields) => {
                    if let Some(turn) = Self::switch(exchange, fields) {
                        return Some(turn);
                    }
                }
                ResponsePart::Piece(piece) => {
                    if let Some(turn) =
                        Self::pass_piece(exchange, std::mem::replace(&mut pending, piece))
                    {
                        return Some(turn);
                    }
                }
                ResponsePart::Trailers(fields) => exchange.consumer.trailers(fields),
                ResponsePart::End => {
                    self.release(exchange, rest.is_empty());
                    return Some(exchange.pass_last(pending).into());
                }
            }
        }
    }

    /// What has come is not what may come (RFC 9112 §6.3).
    fn violated(&mut self, exchange: &mut Exchange<C>, what: String) -> TurnOutcome {
        let origin = exchange.request.to.shown.clone();
        let error = if exchange.is_answered {
            OriginError::Cut { origin, what }
        } else {
            OriginError::Invalid { origin, what }
        };
        self.fail_with(exchange, error)
    }

    /// The head of the response has come, and `rest` behind it; `None` if the content is to be read.
    fn take_head(
        &mut self,
        exchange: &mut Exchange<C>,
        head: OriginHead,
        rest: &[u8],
    ) -> Option<TurnOutcome> {
        if exchange.request.to.is_passed_on
            && head.status == StatusCode::PROXY_AUTHENTICATION_REQUIRED
        {
            let error = refused_by_proxy(&exchange.request.to.shown, head.status);
            return Some(self.fail_with(exchange, error));
        }
        exchange.is_answered = true;
        // An error answers the content as well: the rest of it is of no use to anybody. So does any answer that comes
        // in the place of a 100.
        let takes_no_more =
            head.status.as_u16() >= 300 || matches!(exchange.content, ContentState::Awaits100(_));
        if takes_no_more {
            exchange.cut_content();
        }
        let permit = exchange.permit.as_ref().expect("only what is admitted is sent");
        exchange.limit_copy = permit.note_answer(&head);
        if !head.has_content {
            return Some(self.answer_at_once(exchange, head, rest));
        }
        match exchange.consumer.head(head) {
            Wish::GoOn => None,
            wish => Some(self.leave(exchange, wish, rest)),
        }
    }

    /// The origin server has gone over to another protocol.
    fn switch(exchange: &mut Exchange<C>, fields: Fields) -> Option<TurnOutcome> {
        exchange.become_tunnel();
        exchange.permit.as_ref().expect("only what is admitted is sent").note_upgrade();
        match exchange.consumer.switched(fields) {
            Wish::GoOn => None,
            wish => Some(wish.into()),
        }
    }

    /// The response has no content, so that its head is its end: the connection is free before the client learns of
    /// it.
    fn answer_at_once(
        &mut self,
        exchange: &mut Exchange<C>,
        head: OriginHead,
        rest: &[u8],
    ) -> TurnOutcome {
        if let Some(connection) = &mut exchange.connection {
            let ended = connection.reader.next(rest);
            let used = ended.as_ref().map_or(0, |(used, _)| *used);
            assert!(matches!(ended, Ok((_, ResponsePart::End))), "there is nothing before the end");
            self.release(exchange, used == rest.len());
        }
        exchange.permit = None;
        match exchange.consumer.head(head) {
            Wish::GoOn => exchange.pass_last(&[]).into(),
            wish => wish.into(),
        }
    }

    /// Passes content on that is not the last.
    fn pass_piece(exchange: &mut Exchange<C>, piece: &[u8]) -> Option<TurnOutcome> {
        if piece.is_empty() {
            return None;
        }
        if let Some(copy) = &mut exchange.limit_copy {
            copy.push(piece);
        }
        match exchange.consumer.piece(piece) {
            Wish::GoOn => None,
            wish => Some(wish.into()),
        }
    }

    /// The content is of no use. If all of it is there already, the connection is.
    fn leave(&mut self, exchange: &mut Exchange<C>, wish: Wish, mut rest: &[u8]) -> TurnOutcome {
        while let Some(connection) = &mut exchange.connection {
            match connection.reader.next(rest) {
                Ok((used, ResponsePart::Piece(_) | ResponsePart::Trailers(_))) => {
                    rest = &rest[used..];
                }
                Ok((used, ResponsePart::End)) => self.release(exchange, used == rest.len()),
                _ => break,
            }
        }
        wish.into()
    }

    /// The response has ended: the connection is kept for others, if it may be.
    fn release(&mut self, exchange: &mut Exchange<C>, is_all: bool) {
        let Some(mut connection) = exchange.connection.take() else { return };
        let keeps = is_all
            && connection.reader.stays_open()
            && exchange.is_sent()
            && exchange.broken.is_none()
            && !connection.ending
            && connection.stream.is_flushed();
        // The last read may have ended with the response by chance.
        let keeps = keeps
            && !(connection.readable && has_more(&mut connection, &mut vec![0; SCRATCH_BYTES]));
        let is_bound =
            connection.client.is_some() || exchange.request.binds || connection.reader.binds();
        if !keeps || is_bound && exchange.client.is_none() {
            return self.close(connection);
        }
        // RFC 4559 §6: whatever comes over it is taken for the same user's from now on.
        connection.client = exchange.client.filter(|_| is_bound);
        connection.idle_since = self.now;
        *self.owners.at_mut(connection.token).expect("a connection has a token") = Owner::Nobody;
        match self.idle.keep(connection, self.now) {
            Some(connection) => self.close(connection),
            None => self.remember(self.now + IDLE_CHECK),
        }
    }

    /// The other side has ended the connection in order.
    fn ended(&mut self, exchange: &mut Exchange<C>) -> TurnOutcome {
        let Some(connection) = &mut exchange.connection else { return TurnOutcome::Over };
        connection.ending = true;
        // A write that failed may have met a reset, of which no read learns any more: this end proves nothing then
        // (RFC 9112 §8).
        let is_reset = exchange.broken.is_some() && !exchange.is_tunnel;
        if !connection.reader.end() || is_reset {
            return self.lost(exchange, io::ErrorKind::UnexpectedEof.into());
        }
        self.disconnect(exchange);
        exchange.pass_last(&[]).into()
    }

    /// The connection is lost.
    fn lost(&mut self, exchange: &mut Exchange<C>, error: io::Error) -> TurnOutcome {
        // What failed when it was written to says more than the end behind it.
        let error = exchange.broken.take().unwrap_or(error);
        if !exchange.is_answered && exchange.may_repeat(&error) {
            self.disconnect(exchange);
            exchange.needs_fresh = true;
            exchange.stage = ExchangeStage::Naming;
            exchange.connect_by = self.now + self.settings.connect_timeout;
            exchange.head_sent = 0;
            return TurnOutcome::Again;
        }
        self.fail(exchange, &error)
    }

    fn fail(&mut self, exchange: &mut Exchange<C>, error: &io::Error) -> TurnOutcome {
        let error = exchange.explain(error);
        self.fail_with(exchange, error)
    }

    /// The exchange has failed. First the connection: a client that learns of it may ask again at once.
    pub(super) fn fail_with(
        &mut self,
        exchange: &mut Exchange<C>,
        error: OriginError,
    ) -> TurnOutcome {
        self.disconnect(exchange);
        // What happens behind the head says nothing about whether the server can be reached.
        if let Some(permit) = exchange.permit.take().filter(|_| !exchange.is_answered) {
            permit.note_error(&error);
        }
        exchange.consumer.fail(error).into()
    }

    /// What an exchange fails with whose deadline has come; `None` if the deadline is for something else.
    pub(super) fn lateness(&self, exchange: &Exchange<C>) -> Option<OriginError> {
        let origin = exchange.request.to.shown.clone();
        let EventedSettings { connect_timeout, origin_timeout, first_byte_timeout, .. } =
            &*self.settings;
        match exchange.stage {
            ExchangeStage::Talking => {}
            // The gate has deadlines of its own; the others know what else may be tried. All of them are asked.
            ExchangeStage::Admitting(_)
            | ExchangeStage::Naming
            | ExchangeStage::Asking(_)
            | ExchangeStage::Renewing(..)
            | ExchangeStage::Racing(..) => {
                return None;
            }
            ExchangeStage::Greeting(_) | ExchangeStage::Securing => {
                let is_late = exchange.connect_by <= self.now;
                return is_late
                    .then_some(OriginError::ConnectTimeout { origin, limit: *connect_timeout });
            }
        }
        if exchange.is_answered {
            // What was not read because there was no space is not late.
            let what = format!("silent for {} s", origin_timeout.as_secs_f32());
            return (!exchange.is_blocked).then_some(OriginError::Cut { origin, what });
        }
        match exchange.content {
            ContentState::Awaits100(_) if !exchange.has_output() => None,
            _ if exchange.has_output() => {
                Some(OriginError::Timeout { origin, limit: *origin_timeout })
            }
            _ => Some(OriginError::Timeout { origin, limit: *first_byte_timeout }),
        }
    }
}

/// Is there anything behind a response, be it the end? What is left there would be taken for the response to the next
/// request (RFC 9112 §6.3).
pub(super) fn has_more(connection: &mut OriginConnection, scratch: &mut [u8]) -> bool {
    let read = connection.stream.read(&mut [0], scratch);
    connection.readable = false;
    !matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}
