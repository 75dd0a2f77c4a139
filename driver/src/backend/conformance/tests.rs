//! The suite on the fake host, and proof that it can fail.

use super::*;
use crate::host::fake::FakeHost;

struct FakeGround {
    host: FakeHost,
    kind: BackendKind,
    count: std::cell::Cell<u32>,
}

impl FakeGround {
    fn new(kind: BackendKind) -> Self {
        Self { host: FakeHost::new(), kind, count: std::cell::Cell::new(0) }
    }

    fn next(&self) -> u32 {
        self.count.set(self.count.get() + 1);
        self.count.get()
    }
}

impl Ground for FakeGround {
    fn host(&self) -> Arc<dyn Host> {
        Arc::new(self.host.clone())
    }

    fn kind(&self) -> BackendKind {
        self.kind
    }

    fn fresh(&self) -> Result<PathBuf> {
        let dir = PathBuf::from(format!("/pools/{}", self.next()));
        self.host.add_disk(self.kind.filesystem(), Bytes::gib(1), &dir);
        Ok(dir)
    }

    fn mount_point(&self) -> Result<PathBuf> {
        let dir = PathBuf::from(format!("/mnt/{}", self.next()));
        self.host.make_all(&dir);
        Ok(dir)
    }

    fn write_block(&self, device: &Path, block: u64, content: u64) -> Result<()> {
        Ok(self.host.write_block(device, block, content)?)
    }

    fn read_block(&self, device: &Path, block: u64) -> Result<u64> {
        Ok(self.host.read_block(device, block)?)
    }

    fn files_are_in_the_image(&self) -> bool {
        false
    }

    fn set_read_only(&self, dir: &Path, read_only: bool) -> Result<()> {
        self.host.set_read_only(dir, read_only);
        Ok(())
    }

    fn leave_free(&self, dir: &Path, free: Bytes) -> Result<()> {
        self.host.leave_free(dir, free);
        Ok(())
    }
}

#[test]
fn the_memory_backend_conforms() {
    run(&FakeGround::new(BackendKind::Memory)).unwrap();
}

#[test]
fn the_btrfs_backend_conforms_on_the_model() {
    run(&FakeGround::new(BackendKind::Btrfs)).unwrap();
}

#[test]
fn the_xfs_backend_conforms_on_the_model() {
    run(&FakeGround::new(BackendKind::Xfs)).unwrap();
}

#[test]
fn a_cut_over_very_many_extents_is_refused_on_xfs_and_fine_on_btrfs() {
    for (kind, refuses) in [(BackendKind::Xfs, true), (BackendKind::Btrfs, false)] {
        let ground = FakeGround::new(kind);
        let pool = new_pool(&ground).unwrap();
        let request = NewVolume { capacity: Bytes::mib(300), ..raw(&pool, "volume") };
        let id = pool.create_volume(&request).unwrap().id;
        let image = pool.image(&id).unwrap();
        for block in 0..36_000 {
            ground.host.write_block(&image, block * 2, 1).unwrap();
        }
        let record = cut_record("cut", CutState::Round, [id]).unwrap();
        let answer = pool.prepare_cut(&record);
        assert_eq!(answer.is_err(), refuses, "{kind}");
        if refuses {
            refused(answer, Code::Precondition, "540 ms, more than the 500 ms").unwrap();
        }
    }
}
