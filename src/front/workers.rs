//! The fixed pool of worker threads and its bounded channels.
//!
//! Work comes in two kinds. An arrival is looked up, which never waits; what it then asks of the
//! origin server may wait long. One worker in eight never asks the origin server: it hands that on,
//! so that fresh hits are answered even when the origin server keeps all the others waiting.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use parking_lot::Mutex;

use crate::stats::{Event, Stats};

/// Work that can wait in line for each worker.
const QUEUE_PER_WORKER: usize = 16;
/// One worker in so many never asks the origin server.
const WORKERS_PER_RESERVED: usize = 8;

/// A piece of work.
pub type Job = Box<dyn FnOnce(Role) + Send>;

/// What a worker may do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Role {
    /// Anything.
    Any,
    /// Look things up only; what may wait is handed on by [`Pool::submit_forward`].
    Reserved,
}

/// A fixed number of threads.
pub struct Pool {
    arrivals: Sender<Job>,
    forwards: Sender<Job>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Pool {
    /// Starts `workers` threads, at least one.
    pub fn start(workers: usize, stats: &Arc<Stats>) -> io::Result<Self> {
        let (arrivals, arriving) = bounded::<Job>(workers * QUEUE_PER_WORKER);
        let (forwards, forwarding) = bounded::<Job>(workers * QUEUE_PER_WORKER);
        let reserved = if workers < 2 { 0 } else { (workers / WORKERS_PER_RESERVED).max(1) };
        let mut threads = Vec::with_capacity(workers);
        for number in 0..workers {
            let role = if number < reserved { Role::Reserved } else { Role::Any };
            let (arriving, forwarding) = (arriving.clone(), forwarding.clone());
            let stats = Arc::clone(stats);
            let name = format!("worker-{number}");
            let thread = thread::Builder::new()
                .name(name)
                .spawn(move || work(role, &arriving, &forwarding, &stats))?;
            threads.push(thread);
        }
        Ok(Self { arrivals, forwards, threads: Mutex::new(threads) })
    }

    /// Hands in an arrival; gives it back if the queue is full.
    pub fn submit(&self, job: Job) -> Result<(), Job> {
        self.arrivals.try_send(job).map_err(TrySendError::into_inner)
    }

    /// Hands in what may wait for the origin server; gives it back if the queue is full.
    pub fn submit_forward(&self, job: Job) -> Result<(), Job> {
        self.forwards.try_send(job).map_err(TrySendError::into_inner)
    }

    /// How many threads there are.
    pub fn workers(&self) -> usize {
        self.threads.lock().len()
    }
}

fn work(role: Role, arriving: &Receiver<Job>, forwarding: &Receiver<Job>, stats: &Stats) {
    loop {
        let job = match role {
            Role::Reserved => arriving.recv(),
            Role::Any => crossbeam_channel::select! {
                recv(forwarding) -> job => job,
                recv(arriving) -> job => job,
            },
        };
        // The channels are closed when the pool is dropped.
        let Ok(job) = job else { return };
        // What the job owned is dropped by the unwinding, and with it the client's connection.
        if catch_unwind(AssertUnwindSafe(|| job(role))).is_err() {
            stats.count(Event::Panic);
            log::error!("a worker panicked; this cost one exchange");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn a_full_queue_gives_the_work_back() {
        let pool = Pool::start(1, &Arc::default()).expect("a thread");
        let (release, held) = channel::<()>();
        let (begun, has_begun) = channel::<()>();
        let hold = Box::new(move |_| {
            begun.send(()).expect("the test listens");
            held.recv().ok();
        });
        assert!(pool.submit(hold).is_ok());
        has_begun.recv().expect("the worker has begun");
        for _ in 0..QUEUE_PER_WORKER {
            assert!(pool.submit(Box::new(|_| ())).is_ok());
        }
        assert!(pool.submit(Box::new(|_| ())).is_err());
        drop(release);
    }

    #[test]
    fn a_panic_costs_one_job() {
        let pool = Pool::start(1, &Arc::default()).expect("a thread");
        assert!(pool.submit(Box::new(|_| panic!("on purpose"))).is_ok());
        let (done, is_done) = channel();
        let job = Box::new(move |_| done.send(()).expect("the test listens"));
        assert!(pool.submit(job).is_ok());
        assert_eq!(is_done.recv(), Ok(()));
    }

    #[test]
    fn a_reserved_worker_answers_while_the_others_wait() {
        let pool = Pool::start(2, &Arc::default()).expect("threads");
        let (release, held) = channel::<()>();
        assert!(pool.submit_forward(Box::new(move |_| drop(held.recv()))).is_ok());
        let (done, is_done) = channel();
        for _ in 0..8 {
            let done = done.clone();
            let job = Box::new(move |_| done.send(()).expect("the test listens"));
            assert!(pool.submit(job).is_ok());
        }
        for _ in 0..8 {
            assert_eq!(is_done.recv(), Ok(()));
        }
        drop(release);
    }
}
