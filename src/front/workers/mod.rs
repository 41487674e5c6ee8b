//! The worker threads, which do what may wait, and their bounded queues.
//!
//! There are two pools. `fixed.rs` is a fixed number of threads, for a front whose every request goes through
//! them. `elastic.rs` starts threads as work comes, and ends those that have none: an event loop does nearly
//! everything by itself.
//!
//! New work is refused when the queue is long. Work that was accepted before and has been parked meanwhile
//! comes back into the same queue and is never refused: the queue has a slot for each request that can be
//! parked. A job that panics costs one exchange, never the thread.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::front::workers::elastic::ElasticPool;
use crate::front::workers::fixed::FixedPool;
use crate::stats::Stats;
use crate::vital;

mod elastic;
mod fixed;
mod job;

pub(crate) use job::{Job, Kind, Role};

/// For how long a worker waits for work before it ends. Work comes in bursts; a thread costs some kilobytes
/// while it waits, and tens of microseconds to start.
const IDLE_MAX: Duration = Duration::from_secs(10);

/// Hands work to threads. Dropped, it ends them when the queues are empty.
pub struct Pool(PoolKind);

enum PoolKind {
    Fixed(FixedPool),
    Elastic(ElasticPool),
}

impl Pool {
    /// Starts `workers` threads, at least one, and beside them those that do one kind of work alone. At most `parked_max`
    /// requests can be parked. The error is that a thread cannot be started.
    pub fn fixed(workers: usize, parked_max: usize, stats: &Arc<Stats>) -> io::Result<Self> {
        Ok(Self(PoolKind::Fixed(FixedPool::start(workers, parked_max, stats)?)))
    }

    /// Starts one thread, which stays. `workers`, at least one, is how many there may be while there is work. At
    /// most `parked_max` requests can be parked. The error is that the thread cannot be started.
    pub fn elastic(workers: usize, parked_max: usize, stats: &Arc<Stats>) -> io::Result<Self> {
        let start = |number, work: Box<dyn FnOnce() + Send>| {
            let run = move || {
                work();
                Ok(())
            };
            vital::spawn(&format!("worker-{number}"), run)
        };
        let bounds = elastic::Bounds { workers, parked_max, idle_max: IDLE_MAX };
        let pool = ElasticPool::start(bounds, stats, Box::new(start))?;
        Ok(Self(PoolKind::Elastic(pool)))
    }

    /// How much of this kind may wait.
    pub(crate) fn waiting_max(&self, kind: Kind) -> usize {
        match &self.0 {
            PoolKind::Fixed(pool) => pool.waiting_max(kind),
            PoolKind::Elastic(pool) => pool.waiting_max(kind),
        }
    }

    /// Hands in work; gives it back if the queue is full.
    pub(crate) fn submit(&self, kind: Kind, job: Job) -> Result<(), Job> {
        match &self.0 {
            PoolKind::Fixed(pool) => pool.submit(kind, job),
            PoolKind::Elastic(pool) => pool.submit(kind, job),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use crate::front::workers::job::FORWARDS_PER_WORKER;

    use super::*;

    /// Both pools, with so few threads that they are soon busy.
    fn pools() -> [(&'static str, Pool); 2] {
        let stats = Arc::default();
        [
            ("fixed", Pool::fixed(1, 4, &stats).expect("threads")),
            ("elastic", Pool::elastic(1, 4, &stats).expect("a thread")),
        ]
    }

    #[test]
    fn a_full_queue_gives_the_work_back() {
        for (name, pool) in pools() {
            let (release, held) = channel::<()>();
            let (begun, has_begun) = channel::<()>();
            let hold = Box::new(move |_| {
                begun.send(()).expect("the test listens");
                held.recv().ok();
            });
            assert!(pool.submit(Kind::Forward, hold).is_ok());
            has_begun.recv().expect("the worker has begun");
            for _ in 0..FORWARDS_PER_WORKER {
                assert!(pool.submit(Kind::Forward, Box::new(|_| ())).is_ok());
            }
            assert!(pool.submit(Kind::Forward, Box::new(|_| ())).is_err(), "{name}");
            for _ in 0..4 {
                assert!(pool.submit(Kind::ResumedForward, Box::new(|_| ())).is_ok());
            }
            let more = pool.submit(Kind::ResumedForward, Box::new(|_| ()));
            assert!(more.is_err(), "{name}: that is bounded too");
            let begun = pool.submit(Kind::Begun, Box::new(|_| ()));
            assert!(begun.is_ok(), "{name}: what is under way is not dropped");
            drop(release);
        }
    }

    #[test]
    fn a_panic_costs_one_job() {
        for (name, pool) in pools() {
            assert!(pool.submit(Kind::Forward, Box::new(|_| panic!("on purpose"))).is_ok());
            let (done, is_done) = channel();
            let job = Box::new(move |_| done.send(()).expect("the test listens"));
            assert!(pool.submit(Kind::Forward, job).is_ok());
            assert_eq!(is_done.recv(), Ok(()), "{name}");
        }
    }

    #[test]
    fn what_is_queued_is_done_before_a_dropped_pool_ends() {
        for (name, pool) in pools() {
            let (release, held) = channel::<()>();
            assert!(pool.submit(Kind::Forward, Box::new(move |_| _ = held.recv())).is_ok());
            let (done, is_done) = channel();
            for _ in 0..4 {
                let done = done.clone();
                let job = Box::new(move |_| done.send(()).expect("the test listens"));
                assert!(pool.submit(Kind::Forward, job).is_ok());
            }
            drop((pool, release, done));
            assert_eq!(is_done.iter().count(), 4, "{name}");
        }
    }
}
