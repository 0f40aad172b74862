DROP MATERIALIZED VIEW hourly_stats;
DROP TABLE streaming_chunks;
DROP TABLE api_requests;
