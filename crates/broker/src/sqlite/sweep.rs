//! What is past its time goes, a little at a time, so that nobody waits for it.

use super::Fault;
use super::core::{After, Core};
use rusqlite::params;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Jobs, and blobs, that one round drops.
const ROUND: usize = 50;
/// A blob that nobody refers to may be meant for a job that is just being submitted.
const UNUSED: Duration = Duration::from_secs(3600);
/// So many ids of dropped jobs are remembered.
const EXPIRED_IDS: u64 = 100_000;

impl Core {
    /// One round; says whether there is more to do at once.
    pub(super) fn sweep(&mut self) -> Result<bool, Fault> {
        let now_ms = self.now_ms();
        let jobs = self.drop_jobs(now_ms)?;
        let blobs = self.drop_blobs(now_ms)?;
        self.db.prepare_cached("DELETE FROM hives WHERE expires_ms <= ?1")?.execute([now_ms])?;
        self.db
            .prepare_cached(
                "DELETE FROM expired WHERE job_id IN (SELECT job_id FROM expired ORDER BY expired_ms DESC \
                 LIMIT 1000 OFFSET ?1)",
            )?
            .execute([EXPIRED_IDS])?;
        self.sweep_folder()?;
        Ok(jobs == ROUND || blobs == ROUND)
    }

    /// Drops finished jobs, the oldest first, that are too old or too much.
    fn drop_jobs(&mut self, now_ms: u64) -> Result<usize, Fault> {
        let kept: u64 = self.db.query_row(
            "SELECT (SELECT coalesce(sum(bytes), 0) FROM jobs WHERE finished_ms IS NOT NULL) \
             + (SELECT coalesce(sum(bytes), 0) FROM blobs WHERE uses > 0)",
            [],
            |row| row.get(0),
        )?;
        let mut too_much = kept.saturating_sub(self.options.keep_bytes);
        let oldest_ms = now_ms.saturating_sub(millis(self.options.keep_for));
        let oldest: Vec<(i64, String, u64, u64)> = self
            .db
            .prepare_cached(
                "SELECT number, job_id, finished_ms, bytes + (SELECT coalesce(sum(blobs.bytes), 0) FROM blob_uses \
                 JOIN blobs ON blobs.id = blob WHERE job = number AND uses = 1) \
                 FROM jobs WHERE finished_ms IS NOT NULL ORDER BY finished_ms, number LIMIT ?1",
            )?
            .query_map([ROUND], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?
            .collect::<Result<_, _>>()?;
        let mut dropped = 0;
        for (number, job_id, finished_ms, bytes) in oldest {
            if finished_ms > oldest_ms && too_much == 0 {
                break;
            }
            too_much = too_much.saturating_sub(bytes);
            for sql in [
                "DELETE FROM events WHERE job = ?1",
                "DELETE FROM operations WHERE job = ?1",
                "DELETE FROM idempotency WHERE job = ?1",
                "DELETE FROM blob_uses WHERE job = ?1",
                "DELETE FROM jobs WHERE number = ?1",
            ] {
                self.db.prepare_cached(sql)?.execute([number])?;
            }
            self.db
                .prepare_cached("INSERT OR IGNORE INTO expired (job_id, expired_ms) VALUES (?1, ?2)")?
                .execute(params![job_id, now_ms])?;
            dropped += 1;
        }
        if dropped > 0 {
            tracing::info!("dropped {dropped} finished jobs that were too old, or too much to keep");
        }
        Ok(dropped)
    }

    /// Drops blobs that no job refers to.
    fn drop_blobs(&mut self, now_ms: u64) -> Result<usize, Fault> {
        let before_ms = now_ms.saturating_sub(millis(UNUSED));
        let unused: Vec<String> = self
            .db
            .prepare_cached("SELECT id FROM blobs WHERE uses = 0 AND put_ms <= ?1 ORDER BY put_ms LIMIT ?2")?
            .query_map(params![before_ms, ROUND], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        for id in &unused {
            for sql in ["DELETE FROM blobs WHERE id = ?1", "DELETE FROM blob_bytes WHERE blob = ?1"] {
                self.db.prepare_cached(sql)?.execute([id])?;
            }
            if let Ok(blob) = id.parse() {
                let path = self.options.blobs.path(&blob);
                self.after_commit(After::RemoveFile(path));
            }
        }
        Ok(unused.len())
    }

    /// Looks through one folder for files that a crash left without a row.
    fn sweep_folder(&mut self) -> Result<(), Fault> {
        let folder = self.options.blobs.folder(self.swept_folder);
        self.swept_folder = self.swept_folder.wrapping_add(1);
        let Ok(files) = std::fs::read_dir(folder) else { return Ok(()) };
        for file in files.flatten() {
            let name = file.file_name();
            let id = name.to_string_lossy();
            if is_old(&file.path()) && !self.db.prepare_cached("SELECT 1 FROM blobs WHERE id = ?1")?.exists([&id])? {
                self.after_commit(After::RemoveFile(file.path()));
            }
        }
        Ok(())
    }
}

fn is_old(path: &Path) -> bool {
    let written = path.metadata().and_then(|metadata| metadata.modified());
    written.is_ok_and(|written| SystemTime::now().duration_since(written).is_ok_and(|age| age > UNUSED))
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
