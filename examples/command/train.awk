# Fits a polynomial to the stopping distances of cars (Ezekiel 1930), by gradient descent with
# momentum. Every fifth car is kept back; the error is measured on those.
#
# awk -v degree=2 -v rate=0.05 -v momentum=0.9 -v epochs=300 -f train.awk cars.csv

BEGIN { FS = "," }

NR > 1 { speed[++cars] = $1; distance[cars] = $2 }

END {
    for (car = 1; car <= cars; car++)
        for (power = 1; power <= degree; power++)
            mean[power] += speed[car] ^ power / cars
    for (car = 1; car <= cars; car++)
        for (power = 1; power <= degree; power++)
            spread[power] += (speed[car] ^ power - mean[power]) ^ 2 / cars
    for (car = 1; car <= cars; car++) {
        term[car, 0] = 1
        for (power = 1; power <= degree; power++)
            term[car, power] = (speed[car] ^ power - mean[power]) / sqrt(spread[power])
    }

    for (epoch = 1; epoch <= epochs; epoch++) {
        for (power = 0; power <= degree; power++)
            slope[power] = 0
        for (car = 1; car <= cars; car++)
            if (car % 5 != 0)
                for (power = 0; power <= degree; power++)
                    slope[power] += (predicted(car) - distance[car]) * term[car, power] / cars
        for (power = 0; power <= degree; power++) {
            step[power] = momentum * step[power] - rate * slope[power]
            weight[power] += step[power]
        }
        if (epoch % 100 == 0 || epoch == epochs)
            printf "epoch=%d rmse=%.4f\n", epoch, error()
    }
}

function predicted(car,    power, sum) {
    for (power = 0; power <= degree; power++)
        sum += weight[power] * term[car, power]
    return sum
}

function error(    car, sum, kept) {
    for (car = 5; car <= cars; car += 5) {
        sum += (predicted(car) - distance[car]) ^ 2
        kept++
    }
    return sqrt(sum / kept)
}
