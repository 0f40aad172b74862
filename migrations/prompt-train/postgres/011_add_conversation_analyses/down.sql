DROP TABLE conversation_analyses;
DROP FUNCTION set_updated_at();
DROP TYPE conversation_analysis_status;
