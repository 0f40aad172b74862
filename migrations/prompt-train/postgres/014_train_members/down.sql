DROP TABLE train_members;
DROP FUNCTION keep_an_owner();
