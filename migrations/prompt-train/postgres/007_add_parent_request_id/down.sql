ALTER TABLE api_requests DROP COLUMN parent_request_id;
