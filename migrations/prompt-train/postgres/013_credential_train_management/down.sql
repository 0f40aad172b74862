DROP TABLE train_api_keys;
DROP TABLE train_accounts;
DROP TABLE anthropic_credentials;
DROP TABLE trains;
