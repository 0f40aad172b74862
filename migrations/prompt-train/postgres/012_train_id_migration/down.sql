ALTER TABLE api_requests DROP COLUMN train_id;
