-- The accounts stay: which of them were filled in is not known any more, and they are right either way.
DROP INDEX idx_requests_account_timestamp;
