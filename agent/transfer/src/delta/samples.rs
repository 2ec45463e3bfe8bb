//! Finding where content has moved to, by a few bytes of it.
//!
//! A hint and no proof: what is found wrongly is compared, is unlike again, and is sent in another way.

use memchr::memmem;
use sync::wire::delta::{SAMPLE_BYTES, SAMPLES_MAX, Sample};

/// A sample has at least so many different bytes: runs of zeros are found everywhere.
const DISTINCT_MIN: usize = 10;
/// Places in each part of the range that are tried.
const TRIES: usize = 8;

/// Takes samples of a range, from places all over it.
pub(crate) fn take(range: &[u8]) -> Vec<Sample> {
    let part = range.len() / SAMPLES_MAX;
    let sample = |start: usize| {
        let step = part / TRIES;
        (0..TRIES).map(|number| start + number * step).find_map(|at| {
            let bytes: [u8; SAMPLE_BYTES] = *range.get(at..)?.first_chunk()?;
            let offset = u32::try_from(at).ok()?;
            (distinct(&bytes) >= DISTINCT_MIN).then_some(Sample { offset, bytes })
        })
    };
    (0..SAMPLES_MAX).filter_map(|number| sample(number * part)).collect()
}

fn distinct(bytes: &[u8; SAMPLE_BYTES]) -> usize {
    let mut seen = [false; 256];
    bytes.iter().filter(|byte| !std::mem::replace(&mut seen[usize::from(**byte)], true)).count()
}

/// Returns where the range begins relative to the window, by the samples that are found in it: what most of them say,
/// and of equals the last.
pub(crate) fn locate(samples: &[Sample], window: &[u8]) -> Option<i64> {
    let starts = samples.iter().filter(|sample| distinct(&sample.bytes) >= DISTINCT_MIN);
    let starts = starts.filter_map(|sample| {
        let found = i64::try_from(memmem::find(window, &sample.bytes)?).ok()?;
        Some(found - i64::from(sample.offset))
    });
    let starts: Vec<i64> = starts.collect();
    starts.iter().copied().max_by_key(|start| starts.iter().filter(|other| *other == start).count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_tell_where_content_has_moved_to() {
        let mut content = vec![0; 400_000];
        blake3::Hasher::new().finalize_xof().fill(&mut content[100_000..]);
        let range = &content[50_000..250_000];
        let samples = take(range);
        assert_eq!(samples.len(), 3, "zeros are no sample");
        assert_eq!(locate(&samples, &content), Some(50_000));
        assert_eq!(locate(&samples, &content[90_000..]), Some(-40_000));
        assert_eq!(locate(&samples, &content[..100_000]), None);
        // One of them is in another place.
        let moved = [&content[..150_000], b"inserted", &content[150_000..]].concat();
        assert_eq!(locate(&samples, &moved), Some(50_008));
        assert_eq!(take(&vec![0; 100_000]), []);
        assert_eq!(take(&[]), []);
        let zeros = Sample { offset: 0, bytes: [0; SAMPLE_BYTES] };
        assert_eq!(locate(&[zeros], &content), None);
    }
}
