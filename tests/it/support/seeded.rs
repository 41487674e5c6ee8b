//! Properties are tried with the same numbers in every run; other seeds by environment
//! (`PROPTEST_RNG_SEED`).

use proptest::prelude::ProptestConfig;
use proptest::test_runner::RngSeed;

/// So many cases, or as many as are usual.
pub fn seeded(cases: Option<u32>) -> ProptestConfig {
    let usual = ProptestConfig::default();
    let rng_seed = match usual.rng_seed {
        RngSeed::Random => RngSeed::Fixed(9111),
        chosen @ RngSeed::Fixed(_) => chosen,
    };
    let cases = cases.unwrap_or(usual.cases);
    ProptestConfig { cases, rng_seed, failure_persistence: None, ..usual }
}
