//! The part of a volume that has arrived: what comes is checked, written past the page cache, in order, and made durable.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes as Data;
use stillpoint_guard::fault::point;
use tokio::task::JoinHandle;

use super::DEPTH;
use super::counters::Counters;
use super::receive::Broken;
use crate::agent::pool::{Arrival, Mark, Pool, PoolError};
use crate::domain::transfer::{Chunk, hash};
use crate::domain::{Bytes, Fault};
use crate::host::Host;
use crate::host::blocks::{AlignedBuffer, BlockAccess, BlockFile};
use crate::proto::agent::ExportChunk;

/// A chunk that came over the wire, not looked into yet.
pub struct Arrived {
    /// Where it belongs.
    pub chunk: Chunk,
    /// What the source says that its hash is.
    pub hash: [u8; 32],
    data: Data,
}

impl Arrived {
    /// Refuses one that does not say where in an image of this size it belongs, or that is not behind `after`, where the
    /// chunk before it ended: a source cannot send for ever.
    pub fn read(message: ExportChunk, size: Bytes, after: u64) -> Result<Self, Fault> {
        let wrong =
            |why: &str| Fault::internal(format!("the source sent a chunk that cannot be used: {why}"));
        let piece = |piece: &crate::proto::agent::BlockRange| {
            Some(piece.offset..piece.offset.checked_add(piece.length)?)
        };
        let pieces: Option<Vec<_>> = message.pieces.iter().map(piece).collect();
        let chunk = Chunk { pieces: pieces.ok_or_else(|| wrong("a piece ends nowhere"))? };
        let length = if message.data.is_empty() { chunk.length() } else { message.data.len() as u64 };
        let image = Bytes(size.0.checked_next_multiple_of(crate::domain::blocks::BLOCK).unwrap_or(size.0));
        if let Some(fault) = chunk.fault(length, after, image) {
            return Err(wrong(fault));
        }
        let hash = message.hash.try_into().map_err(|_| wrong("its hash is not one"))?;
        Ok(Self { chunk, hash, data: message.data })
    }
}

/// The part of a volume that is there, and what is on its way to it.
pub struct Part {
    pool: Arc<Pool>,
    /// Lent to a thread while it is written down.
    arrival: Option<Box<Arrival>>,
    file: Arc<dyn BlockFile>,
    /// Written down.
    pub durable: Mark,
    /// Handed to the disk, in order.
    pub written: Mark,
    writing: VecDeque<JoinHandle<Result<(), Fault>>>,
    counters: Arc<Counters>,
}

impl Part {
    /// Goes on where an arrival has come to. Blocks.
    pub fn open(
        host: &dyn Host,
        pool: Arc<Pool>,
        arrival: Box<Arrival>,
        counters: Arc<Counters>,
    ) -> Result<Self, Fault> {
        let file = Arc::from(host.open_blocks(&arrival.image(), BlockAccess::Write)?);
        let mark = arrival.mark();
        Ok(Self {
            pool,
            arrival: Some(arrival),
            file,
            durable: mark,
            written: mark,
            writing: VecDeque::new(),
            counters,
        })
    }

    /// What the pool knows of it, to be published: everything was written down.
    pub fn into_arrival(self) -> Result<Arrival, Fault> {
        self.arrival.map(|arrival| *arrival).ok_or_else(lost)
    }

    /// Checks and writes a chunk; waits only when as many as may are being written.
    pub async fn write(&mut self, arrived: Arrived) -> Result<(), Broken> {
        if arrived.data.is_empty() || arrived.chunk.pieces[0].start < self.written.until {
            return Err(Broken::For(Fault::internal("the source sent a chunk twice, or without its data")));
        }
        while self.writing.len() >= DEPTH {
            self.finish_one().await?;
        }
        self.written = Mark {
            until: arrived.chunk.end(),
            data: Bytes(self.written.data.0.saturating_add(arrived.chunk.length())),
            chain: self.written.chain.with(&arrived.chunk, &arrived.hash),
        };
        let (file, counters) = (Arc::clone(&self.file), Arc::clone(&self.counters));
        self.writing.push_back(tokio::task::spawn_blocking(move || write(&*file, &arrived, &counters)));
        Ok(())
    }

    async fn finish_one(&mut self) -> Result<(), Broken> {
        let Some(next) = self.writing.pop_front() else { return Ok(()) };
        let done = next.await.unwrap_or_else(|why| Err(Fault::internal(format!("writing broke off: {why}"))));
        if done.is_err() {
            // What follows it may be there, but it does not count.
            self.written = self.durable;
        }
        Ok(done?)
    }

    /// Waits for everything that is being written.
    pub async fn settle(&mut self) -> Result<(), Broken> {
        let mut outcome = Ok(());
        while !self.writing.is_empty() {
            let one = self.finish_one().await;
            if outcome.is_ok() {
                outcome = one;
            }
        }
        if outcome.is_err() {
            self.written = self.durable;
        }
        outcome
    }

    /// Makes what was written durable and writes it down.
    pub async fn note(&mut self) -> Result<(), Broken> {
        self.settle().await?;
        if self.written == self.durable {
            return Ok(());
        }
        let (file, pool, mark) = (Arc::clone(&self.file), Arc::clone(&self.pool), self.written);
        let mut arrival = self.arrival.take().ok_or_else(lost)?;
        let noting = tokio::task::spawn_blocking(move || {
            let noted =
                file.sync().map_err(PoolError::from).and_then(|()| pool.note_arrival(&mut arrival, mark));
            (arrival, noted)
        });
        let (arrival, noted) = noting.await.map_err(|_| lost())?;
        self.arrival = Some(arrival);
        noted.map_err(Fault::from)?;
        self.durable = mark;
        Ok(())
    }
}

fn lost() -> Fault {
    Fault::internal("writing down how far the transfer is broke off; ask again")
}

/// Checks and writes a chunk. Blocks.
fn write(file: &dyn BlockFile, arrived: &Arrived, counters: &Counters) -> Result<(), Fault> {
    if hash(&arrived.data) != arrived.hash {
        counters.corrupt_chunks.add(1);
        return Err(Fault::unavailable("a chunk arrived with a wrong hash; it is fetched again"));
    }
    point("agent.copy.writing");
    let mut buffer = AlignedBuffer::zeroed(arrived.data.len());
    buffer.as_mut().copy_from_slice(&arrived.data);
    let mut rest = buffer.as_ref();
    for piece in &arrived.chunk.pieces {
        let (part, behind) = rest.split_at(usize::try_from(piece.end - piece.start).unwrap_or_default());
        file.write_at(piece.start, part).map_err(PoolError::from)?;
        rest = behind;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Images;
    use crate::host::blocks::Blocks;
    use crate::host::fake::FakeHost;

    #[test]
    fn a_chunk_with_a_wrong_hash_is_counted_and_fetched_again_and_nothing_of_it_is_written() {
        let host = FakeHost::new();
        let image = std::path::Path::new("/image");
        host.create_image(image, Bytes::mib(1)).unwrap();
        let file = host.open_blocks(image, BlockAccess::Write).unwrap();
        let counters = Counters::default();
        let data = Data::from(vec![7; 8192]);
        let chunk = Chunk { pieces: vec![0..4096, 16_384..20_480] };
        let mut arrived = Arrived { chunk, hash: hash(b"other"), data };
        let fault = write(&*file, &arrived, &counters).unwrap_err();
        assert!(matches!(Broken::from(fault), Broken::Off(_)), "the connection is made anew");
        assert_eq!((counters.corrupt_chunks.get(), host.calls_of("pwrite")), (1, 0));
        arrived.hash = hash(&arrived.data);
        write(&*file, &arrived, &counters).unwrap();
        let sevens = u64::from_be_bytes([7; 8]);
        let read = |block| host.read_block(image, block).unwrap();
        assert_eq!([read(0), read(1), read(4)], [sevens, 0, sevens], "each piece at its place");
    }

    #[test]
    fn a_chunk_that_does_not_say_where_it_belongs_is_refused() {
        let piece = |offset, length| crate::proto::agent::BlockRange { offset, length };
        let message = |pieces, hash: usize| ExportChunk {
            pieces,
            data: vec![0; 4096].into(),
            hash: vec![0; hash],
            ..ExportChunk::default()
        };
        let read = |message| Arrived::read(message, Bytes::mib(1), 0).is_ok();
        assert!(read(message(vec![piece(0, 4096)], 32)));
        assert!(!read(message(vec![piece(0, 4096)], 31)));
        assert!(!read(message(vec![piece(4096, u64::MAX)], 32)));
        assert!(!read(message(vec![piece(1 << 20, 4096)], 32)), "beyond the end of the image");
        assert!(!read(message(vec![], 32)));
        assert!(!read(message(vec![piece(0, u64::MAX), piece(0, u64::MAX)], 32)));
        let again = Arrived::read(message(vec![piece(0, 4096)], 32), Bytes::mib(1), 4096);
        assert!(again.is_err(), "a chunk that was there already");
        let wild = Arrived::read(message(vec![piece(0, 4096)], 32), Bytes(u64::MAX), 0);
        assert!(wild.is_ok(), "an image of any size");
    }
}
