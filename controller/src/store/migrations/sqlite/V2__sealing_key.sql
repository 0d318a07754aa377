-- The master key that seals stored keys, by its id; NULL before the first one is stored.
ALTER TABLE counters ADD COLUMN sealing_key TEXT;
