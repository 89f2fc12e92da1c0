import java.sql.DatabaseMetaData;
import java.sql.DriverManager;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Types;
import java.util.List;
import java.util.Map;

/** Prints what a tool that connects by JDBC learns of the views of m365_v1, in the form of tests/golden/m365_v1.txt. */
public final class Columns {
    /** The schema's name as a pattern. */
    private static final String SCHEMA = "m365\\_v1";

    /** The types that the contract has, by what the driver calls them. */
    private static final Map<String, String> NAMES = Map.of("int2", "smallint", "int4", "integer", "int8", "bigint",
            "bool", "boolean", "timestamptz", "timestamp with time zone");

    /** What the driver gives a type that it does not know, and types that tools make nothing of. */
    private static final List<Integer> UNUSABLE = List.of(Types.OTHER, Types.ARRAY, Types.STRUCT, Types.DISTINCT);

    public static void main(String[] arguments) throws SQLException {
        try (var connection = DriverManager.getConnection(arguments[0])) {
            DatabaseMetaData about = connection.getMetaData();
            ResultSet views = about.getTables(null, SCHEMA, "%", new String[] {"VIEW"});
            while (views.next()) {
                String view = views.getString("TABLE_NAME");
                System.out.println("view " + view + "\t" + views.getString("REMARKS"));
                ResultSet columns = about.getColumns(null, SCHEMA, view.replace("_", "\\_"), "%");
                while (columns.next()) {
                    System.out.println("\t" + columns.getString("COLUMN_NAME") + "\t" + type(columns) + "\t"
                            + columns.getString("REMARKS"));
                }
            }
        }
    }

    private static String type(ResultSet column) throws SQLException {
        String name = column.getString("TYPE_NAME");
        int code = column.getInt("DATA_TYPE");
        if (UNUSABLE.contains(code)) {
            return name + ", JDBC type " + code;
        }
        if (code == Types.NUMERIC) {
            return "numeric(" + column.getInt("COLUMN_SIZE") + "," + column.getInt("DECIMAL_DIGITS") + ")";
        }
        return NAMES.getOrDefault(name, name);
    }
}
