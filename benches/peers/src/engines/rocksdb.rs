use crate::data::Key;
use crate::engine::{About, Engine, Session, Settings};
use anyhow::Result;
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamilyDescriptor, DB, DBCompressionType, Options, ReadOptions,
    WriteBatch, WriteOptions,
};
use std::path::Path;

pub struct Rocks {
    db: DB,
    durable: bool,
}

pub struct Of<'a> {
    db: &'a DB,
    write: WriteOptions,
    read: ReadOptions,
}

impl Engine for Rocks {
    const ABOUT: About = About {
        kind: "LSM tree",
        mode: "WAL, `sync = false`, the default",
        killed: "every write",
        power: "a prefix of the WAL",
        durable: "`sync = true`",
        fsyncs: true,
        reads: "a checksum of each block, when it is read into the cache",
    };
    const GET_MANY: bool = true;

    type Session<'a> = Of<'a>;

    fn open(dir: &Path, settings: &Settings) -> Result<Self> {
        // "Setup Options and Basic Tuning" of its wiki, all that it says to set for a new database.
        let mut table = BlockBasedOptions::default();
        table.set_block_cache(&Cache::new_lru_cache(settings.cache as usize)?);
        table.set_bloom_filter(10.0, false);
        table.set_block_size(16 << 10);
        table.set_cache_index_and_filter_blocks(true);
        table.set_pin_l0_filter_and_index_blocks_in_cache(true);
        table.set_format_version(5);
        let mut options = Options::default();
        options.create_if_missing(true);
        options.set_block_based_table_factory(&table);
        options.set_level_compaction_dynamic_level_bytes(true);
        options.set_max_background_jobs(6);
        options.set_bytes_per_sync(1 << 20);
        // Values are random: compression would only take time.
        options.set_compression_type(DBCompressionType::None);
        // "BlobDB" of its wiki: for values of more than some kilobytes.
        if settings.value > 1024 {
            options.set_enable_blob_files(true);
            options.set_min_blob_size(1024);
            options.set_enable_blob_gc(true);
        }
        // Named, so that there is a handle of it: `get_many` needs one.
        let family = ColumnFamilyDescriptor::new("default", options.clone());
        let db = DB::open_cf_descriptors(&options, dir, [family])?;
        Ok(Self { db, durable: settings.durable })
    }

    fn session(&self) -> Result<Of<'_>> {
        let mut write = WriteOptions::default();
        write.set_sync(self.durable);
        Ok(Of { db: &self.db, write, read: ReadOptions::default() })
    }

    fn scan(&self, mut each: impl FnMut(&[u8], &[u8])) -> Result<()> {
        let mut options = ReadOptions::default();
        // Its iterators read ahead by themselves; this is what it recommends for long scans.
        options.set_readahead_size(2 << 20);
        let mut at = self.db.raw_iterator_opt(options);
        at.seek_to_first();
        while let Some((key, value)) = at.item() {
            each(key, value);
            at.next();
        }
        at.status()?;
        Ok(())
    }

    fn close(self) -> Result<()> {
        drop(self.db);
        Ok(())
    }
}

impl Session for Of<'_> {
    fn put(&mut self, key: &Key, value: &[u8]) -> Result<()> {
        Ok(self.db.put_opt(key, value, &self.write)?)
    }

    fn get(&mut self, key: &Key, read: impl FnOnce(&[u8])) -> Result<bool> {
        // Pinned: the value is not copied.
        Ok(self.db.get_pinned_opt(key, &self.read)?.map(|value| read(&value)).is_some())
    }

    fn batch(&mut self, pairs: &[(Key, &[u8])]) -> Result<()> {
        let mut batch = WriteBatch::default();
        for (key, value) in pairs {
            batch.put(key, value);
        }
        Ok(self.db.write_opt(batch, &self.write)?)
    }

    fn get_many(&mut self, keys: &[Key], mut read: impl FnMut(usize, &[u8])) -> Result<()> {
        let family = self.db.cf_handle("default").expect("always there");
        let values = self.db.batched_multi_get_cf_opt(&family, keys, false, &self.read);
        for (at, value) in values.into_iter().enumerate() {
            if let Some(value) = value? {
                read(at, &value);
            }
        }
        Ok(())
    }
}
