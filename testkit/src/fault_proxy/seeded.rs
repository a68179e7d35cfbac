//! Random faults that a correct client survives, the same for the same seed.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::plan::{Fault, On, Plan, What};
use super::route::Kind;

impl Plan {
    /// One to four faults that a correct client of an open registry survives while it pushes a blob
    /// of `size` bytes. No fault strikes more than two requests, and none asks to wait for more
    /// than a second.
    pub fn seeded(seed: u64, size: u64) -> Self {
        Self::draw(seed, size, false)
    }

    /// The same for a registry that wants credentials, with refusals of them among the faults.
    pub fn seeded_with_auth(seed: u64, size: u64) -> Self {
        Self::draw(seed, size, true)
    }

    fn draw(seed: u64, size: u64, auth: bool) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let count = random.random_range(1..=4);
        Self::of((0..count).map(|_| fault(&mut random, size, auth)))
    }
}

fn fault(random: &mut StdRng, size: u64, auth: bool) -> Fault {
    let session = [Kind::OpenSession, Kind::Patch][random.random_range(0..2)];
    let answered = [
        Kind::HeadBlob,
        Kind::OpenSession,
        Kind::Patch,
        Kind::Commit,
        Kind::Status,
        Kind::PutManifest,
    ][random.random_range(0..6)];
    let kinds = if auth { 15 } else { 14 };
    let fault = match random.random_range(0..kinds) {
        0..=2 => Fault::new(On::UploadBody, What::ResetAfter(position(random, size))),
        3 | 4 => Fault::new(answered, What::LoseAnswer),
        5 => Fault::new(answered, What::status(unwell(random))),
        6 => Fault::new(answered, What::early_status(unwell(random))),
        7 => Fault::new(answered, What::too_many_requests(random.random_range(0..2))),
        8 => {
            let lost = random.random_range(1..=size.max(1));
            let on = [Kind::Patch, Kind::Status][random.random_range(0..2)];
            Fault::new(on, What::StaleRange(lost))
        }
        9 => Fault::new(Kind::Patch, What::CreatedOnPatch),
        10 => Fault::new(Kind::Patch, What::RangeNotSatisfiable),
        11 => Fault::new(session, What::RelativeLocation),
        12 => Fault::new(session, What::BareLocation),
        13 => Fault::new(session, What::AbsoluteLocation),
        _ => Fault::new(answered, What::Unauthorized),
    };
    let nth = random.random_range(1..=2);
    fault.nth(nth).times(random.random_range(1..=2))
}

/// Anywhere in the blob; half of the time near its start, where small chunks are struck too.
fn position(random: &mut StdRng, size: u64) -> u64 {
    let end = if random.random() {
        size
    } else {
        size.min(64 * 1024)
    };
    random.random_range(0..=end)
}

fn unwell(random: &mut StdRng) -> u16 {
    [408, 500, 502, 503, 504][random.random_range(0..5)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_always_gives_the_same_plan_and_seeds_differ() {
        let plans: Vec<_> = (0..100).map(|seed| Plan::seeded(seed, 1 << 20)).collect();
        for (seed, plan) in (0..).zip(&plans) {
            assert_eq!(plan, &Plan::seeded(seed, 1 << 20));
            assert!((1..=4).contains(&plan.faults().len()));
        }
        assert!(plans.windows(2).filter(|two| two[0] == two[1]).count() < 5);
        assert!(Plan::seeded(0, 0) == Plan::seeded(0, 0));
    }
}
