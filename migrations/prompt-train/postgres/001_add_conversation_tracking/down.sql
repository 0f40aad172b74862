ALTER TABLE api_requests DROP COLUMN message_count;
ALTER TABLE api_requests DROP COLUMN branch_id;
ALTER TABLE api_requests DROP COLUMN conversation_id;
ALTER TABLE api_requests DROP COLUMN parent_message_hash;
ALTER TABLE api_requests DROP COLUMN current_message_hash;
