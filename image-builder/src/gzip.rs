//! Gzip on several threads, with bytes that do not depend on how many.
//!
//! The input is cut into blocks of [`BLOCK`] bytes. Each is compressed by itself, primed with the
//! end of the block before it, and ends on a byte boundary (a sync flush), so that the parts
//! joined are one deflate stream in one gzip member (RFC 1952), as `pigz` and `pgzip` make it.
//! The level and the implementation are pinned, since both show in the bytes.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::num::NonZeroUsize;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

use bytes::{Bytes, BytesMut};
use flate2::{Compress, Compression, Crc, FlushCompress};

/// The bytes that are compressed at a time. Part of the output's definition.
pub(crate) const BLOCK: usize = 1024 * 1024;
/// The most that deflate looks back, and so the most that primes a block.
const WINDOW: usize = 32 * 1024;
const LEVEL: u32 = 6;
/// Magic, deflate, no flags, no time, no level hint, unknown system (RFC 1952, section 2.3).
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
/// The last block, empty (RFC 1951, section 3.2.6).
const LAST: [u8; 2] = [3, 0];

/// A block on its way to a thread, and where its compressed form is awaited.
struct Job {
    block: Bytes,
    before: Bytes,
    reply: SyncSender<io::Result<Vec<u8>>>,
}

/// Compresses all of `input` into `output` on `threads` threads. At most two blocks per thread
/// are in memory, as they came and compressed.
pub(crate) fn compress(
    input: &mut impl Read,
    output: &mut impl Write,
    threads: NonZeroUsize,
) -> io::Result<()> {
    output.write_all(&HEADER)?;
    let limit = threads.get() * 2;
    let (jobs, queue) = sync_channel::<Job>(limit);
    let queue = Mutex::new(queue);
    let crc = thread::scope(|scope| {
        for _ in 0..threads.get() {
            scope.spawn(|| work(&queue));
        }
        // The queue's sender goes into `feed`, whose end lets the threads end, too.
        feed(input, output, jobs, limit)
    })?;
    output.write_all(&LAST)?;
    output.write_all(&crc.sum().to_le_bytes())?;
    output.write_all(&crc.amount().to_le_bytes())
}

/// Hands out blocks and writes their compressed forms in order.
fn feed(
    input: &mut impl Read,
    output: &mut impl Write,
    jobs: SyncSender<Job>,
    limit: usize,
) -> io::Result<Crc> {
    let mut crc = Crc::new();
    let mut awaited = VecDeque::with_capacity(limit);
    let mut before = Bytes::new();
    loop {
        let block = read_block(input)?;
        if block.is_empty() {
            break;
        }
        crc.update(&block);
        if awaited.len() == limit {
            write_next(&mut awaited, output)?;
        }
        let (reply, answer) = sync_channel(1);
        let job = Job {
            block: block.clone(),
            before,
            reply,
        };
        jobs.send(job).map_err(|_| stopped())?;
        awaited.push_back(answer);
        before = block.slice(block.len().saturating_sub(WINDOW)..);
    }
    drop(jobs);
    while !awaited.is_empty() {
        write_next(&mut awaited, output)?;
    }
    Ok(crc)
}

type Answer = Receiver<io::Result<Vec<u8>>>;

fn write_next(awaited: &mut VecDeque<Answer>, output: &mut impl Write) -> io::Result<()> {
    let answer = awaited.pop_front().ok_or_else(stopped)?;
    output.write_all(&answer.recv().map_err(|_| stopped())??)
}

fn stopped() -> io::Error {
    io::Error::other("a compression thread stopped")
}

/// A whole block, or what is left of the input: the size of blocks must not depend on how the
/// source is chunked.
fn read_block(input: &mut impl Read) -> io::Result<Bytes> {
    let mut block = BytesMut::zeroed(BLOCK);
    let mut filled = 0;
    while filled < BLOCK {
        match input.read(&mut block[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    block.truncate(filled);
    Ok(block.freeze())
}

/// Compresses blocks until there are no more.
fn work(queue: &Mutex<Receiver<Job>>) {
    loop {
        // The lock is held while waiting; whoever holds it takes the next job.
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        // Nobody waits any more if the writer failed.
        let _ = job.reply.send(deflate(&job.block, &job.before));
    }
}

/// One block as a part of a deflate stream that follows `before`.
fn deflate(block: &[u8], before: &[u8]) -> io::Result<Vec<u8>> {
    // A new state for every block, so that none can carry anything over.
    let mut state = Compress::new(Compression::new(LEVEL), false);
    if !before.is_empty() {
        state.set_dictionary(before).map_err(io::Error::other)?;
    }
    // Deflate stores what does not compress, for a few bytes in each 16 KiB; this is far above.
    let mut out = Vec::with_capacity(block.len() + block.len() / 16 + 1024);
    state
        .compress_vec(block, &mut out, FlushCompress::Sync)
        .map_err(io::Error::other)?;
    if state.total_in() != block.len() as u64 || out.len() == out.capacity() {
        return Err(io::Error::other("a block grew beyond the bound of deflate"));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::read::{GzDecoder, MultiGzDecoder};
    use proptest::prelude::*;

    fn gzip(input: &[u8], threads: usize) -> Vec<u8> {
        let mut out = Vec::new();
        let threads = NonZeroUsize::new(threads).unwrap();
        compress(&mut &input[..], &mut out, threads).unwrap();
        out
    }

    /// Bytes that compress somewhat, from a small generator.
    fn material(len: usize, mut seed: u32) -> Vec<u8> {
        let next = move |_| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 24) as u8 & 0x3f
        };
        (0..len).map(next).collect()
    }

    fn gunzip(stored: &[u8]) -> Vec<u8> {
        let mut one = Vec::new();
        GzDecoder::new(stored).read_to_end(&mut one).unwrap();
        let mut all = Vec::new();
        MultiGzDecoder::new(stored).read_to_end(&mut all).unwrap();
        assert_eq!(one, all, "there is one member");
        one
    }

    #[test]
    fn the_number_of_threads_does_not_show_and_blocks_join() {
        for len in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK + 77] {
            let input = material(len, 7);
            let one = gzip(&input, 1);
            for threads in [2, 3, 8] {
                assert_eq!(gzip(&input, threads), one, "{len} bytes, {threads} threads");
            }
            assert_eq!(gunzip(&one), input);
        }
    }

    #[test]
    fn a_block_uses_the_end_of_the_one_before() {
        let noise = material(WINDOW / 2, 1);
        let mut input = material(BLOCK - noise.len(), 2);
        input.extend(&noise);
        let alone = gzip(&input, 1).len();
        input.extend(&noise);
        let together = gzip(&input, 1).len();
        assert!(together - alone < noise.len() / 20, "{}", together - alone);
    }

    #[test]
    fn noise_grows_by_little() {
        let mut state = 1_u64;
        let noise: Vec<u8> = (0..2 * BLOCK + 5)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state.to_le_bytes()[4]
            })
            .collect();
        let stored = gzip(&noise, 2);
        assert!(stored.len() < noise.len() + noise.len() / 500 + 64);
        assert_eq!(gunzip(&stored), noise);
    }

    #[test]
    fn a_failing_source_or_sink_ends_the_threads() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("broken"))
            }
        }
        let two = NonZeroUsize::new(2).unwrap();
        let zeros = vec![0; 3 * BLOCK];
        let mut input = (&zeros[..]).chain(Broken);
        assert!(compress(&mut input, &mut Vec::new(), two).is_err());
        let mut full = &mut [0; 64][..];
        let input = material(20 * BLOCK, 3);
        assert!(compress(&mut &input[..], &mut full, two).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        #[test]
        fn what_went_in_comes_out(len in 0..3 * BLOCK, seed in any::<u32>(), threads in 1..4_usize) {
            let input = material(len, seed);
            prop_assert_eq!(gunzip(&gzip(&input, threads)), input);
        }
    }
}
