//! Which traces are taken.

use super::context::Context;

/// A decision about traces, made once at their root or wherever they come from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampler {
    /// Whether a trace that comes from elsewhere goes as was decided there.
    parent: bool,
    /// Traces whose number is below this are taken; `None`: all.
    below: Option<u64>,
}

impl Default for Sampler {
    fn default() -> Self {
        Self { parent: true, below: None }
    }
}

impl Sampler {
    /// The sampler of a name in the specification; `ratio` is between 0 and 1.
    #[must_use]
    pub fn named(name: &str, ratio: f64) -> Option<Self> {
        let (parent, own) = match name.strip_prefix("parentbased_") {
            Some(own) => (true, own),
            None => (false, name),
        };
        let below = match own {
            "always_on" => None,
            "always_off" => Some(0),
            "traceidratio" if (0.0..1.0).contains(&ratio) => Some(bound(ratio)),
            "traceidratio" if ratio >= 1.0 => None,
            _ => return None,
        };
        Some(Self { parent, below })
    }

    /// Whether a trace is taken, given where it comes from, if from anywhere.
    #[must_use]
    pub fn takes(self, trace: [u8; 16], from: Option<&Context>) -> bool {
        match from {
            Some(from) if self.parent => from.sampled(),
            _ => self.below.is_none_or(|below| number(trace) < below),
        }
    }
}

/// The last seven bytes of a trace id are random (W3C Trace Context level 2, section 5.1); the sidecars and agents of a
/// fleet that sample by them agree.
fn number(trace: [u8; 16]) -> u64 {
    trace.iter().skip(9).fold(0, |number, byte| (number << 8) | u64::from(*byte))
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a ratio of 2^56, below 1")]
fn bound(ratio: f64) -> u64 {
    (ratio * 2_f64.powi(56)) as u64
}

#[cfg(test)]
mod tests {
    use super::{Context, Sampler};

    #[test]
    fn a_ratio_takes_about_that_many_and_a_parent_decides_for_its_children() {
        let half = Sampler::named("parentbased_traceidratio", 0.5).expect("a sampler");
        let taken = (0..1_000).filter(|_| half.takes(Context::root(true).trace, None)).count();
        assert!((350..650).contains(&taken), "{taken}");
        let off = Sampler::named("parentbased_always_off", 1.0).expect("a sampler");
        let parent = Context::root(true);
        assert!(off.takes(parent.trace, Some(&parent)) && !off.takes(parent.trace, None));
        let always = Sampler::named("always_on", 1.0).expect("a sampler");
        assert!(always.takes(parent.trace, Some(&Context::root(false))));
        assert!(Sampler::named("traceidratio", f64::NAN).is_none() && Sampler::named("xray", 1.0).is_none());
    }
}
